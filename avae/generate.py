"""The VAE by itself, without any search: init, encode, decode, sample."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from avae.checks import check_key, images_for
from avae.model import Model, Params
from avae.networks.vae import Posterior
from avae.runtime.mistake import Mistake


def init(key: Array, model: Any) -> Params:
    """Fresh weights for a model.

    Args:
      key: draws them.
      model: a `Model`, or a bare network such as `avae.MLP()`.

    Returns:
      `Params`.

    Raises:
      Mistake: if `key` is not a key of `jax.random.key`.
    """
    check_key(key)
    if not isinstance(model, Model):
        model = Model(networks=model)
    return Params(model.init(key), model)


def encode(params: Params, x: ArrayLike) -> Posterior:
    """q(z | x) of images in the canonical frame, without any search.

    Args:
      params: the model.
      x: images [B, *space, C] of the canonical frame's shape, which is by default that of all images: give
        `found.canonical` to encode them at the poses found.

    Returns:
      Means and log variances, each [B, z].

    Raises:
      Mistake: if x has the wrong shape, dtype or range.
    """
    return _encode(*images_for(params, x, canonical=True))


def decode(params: Params, z: ArrayLike) -> Array:
    """Pixel means for latents, in the canonical frame.

    Args:
      params: the model.
      z: latents [B, z].

    Returns:
      Pixel means [B, *space, C].

    Raises:
      Mistake: if z has the wrong shape.
    """
    z, latent = jnp.asarray(z, jnp.float32), getattr(params.model.networks, "latent", None)
    if z.ndim != 2 or (latent is not None and z.shape[1] != latent):
        raise Mistake(f"z: expected latents [B, {latent or 'z'}], got shape {z.shape}")
    return _decode(params, z)


def sample(params: Params, n: int, *, key: Array | None = None, posed: bool = True) -> Array:
    """Pixel means of `n` objects drawn from the model: z ~ N(0, I), alpha ~ its prior, tau_alpha^-1 dec(z).

    Args:
      params: the model; its networks must say how many latents they have (`latent`).
      n: how many.
      key: draws them; None for a fixed key.
      posed: False leaves them in the canonical frame.

    Returns:
      Pixel means [n, *space, C].

    Raises:
      Mistake: if n is less than 1, the key is none, or the networks do not say their number of latents.
    """
    check_key(key)
    latent = getattr(params.model.networks, "latent", None)
    if n < 1 or latent is None:
        raise Mistake(f"sample expects n >= 1 and networks with an attribute `latent`, got n={n}, latent={latent}")
    latent_key, pose_key = jax.random.split(jax.random.key(0) if key is None else key)
    means = _decode(params, jax.random.normal(latent_key, (n, latent), jnp.float32))
    return _pose(means, jax.random.split(pose_key, n), params.model) if posed else means


@jax.jit
def _encode(params: Params, x: Array) -> Posterior:
    return jax.vmap(lambda x: params.model.encode(params.weights, x))(x)


@jax.jit
def _decode(params: Params, z: Array) -> Array:
    return jax.vmap(lambda z: params.model.decode(params.weights, z))(z)


@functools.partial(jax.jit, static_argnames="model")
def _pose(means: Array, keys: Array, model: Model) -> Array:
    out = (model.image_shape or means.shape[1:])[:-1]

    def pose(mean: Array, key: Array) -> Array:
        return model.from_canonical(mean, model.transform, model.transform.sample(key), out)

    return jax.vmap(pose)(means, keys)
