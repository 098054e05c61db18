"""Losses and reconstructions of a batch, with and without poses."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from avae.model import Params
from avae.objective import objective, predict


@jax.jit
def plain_loss(params: Params, x: Array) -> Array:
    """J [B] in nats of a plain VAE pass over images [B, *space, C], z at the posterior mean."""
    return objective(params, x).total


@functools.partial(jax.jit, static_argnames="draws")
def sampled_loss(params: Params, x: Array, alpha: Array | None, key: Array, draws: int) -> Array:
    """J [B] in nats at poses `alpha` [B, size] (None: no warp) as the mean over `draws` draws of z."""
    keys = jax.random.split(key, draws)
    return lax.map(lambda key: objective(params, x, alpha, key).total, keys).mean(axis=0)


def least_loss(params: Params, x: np.ndarray) -> float | None:
    """Mean over images x [N, *space, C] of the reconstruction term that no decoder can pass; None for a likelihood."""
    floor: Any = getattr(params.model.likelihood, "floor", None)
    losses: Any = jax.vmap(lambda x: floor(*params.model.observed(x)))(x) if callable(floor) else None
    return None if losses is None else float(losses.mean())


@jax.jit
def plain_reconstruction(params: Params, x: Array) -> Array:
    """Pixel means [B, *space, C] of a plain VAE pass over x [B, *space, C], z at the posterior mean."""
    family = params.model.transform
    return jax.vmap(lambda x: predict(params, x, family, family.identity).mean)(x)


@jax.jit
def squared_error(x: Array, mean: Array) -> Array:
    """Squared distance [B] of pixel means from images, both [B, *space, C], summed over pixels."""
    return jnp.sum((x - mean).reshape(len(x), -1) ** 2, axis=1)
