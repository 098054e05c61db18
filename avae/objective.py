"""J(alpha; x), the negative ELBO of log p(x | alpha), and its terms: the paper's equation, in its order.

    J(alpha; x) = -E_{z ~ q(z | tau_alpha x)} [ log p(x | tau_alpha^-1 dec(z)) ] + KL( q(z | tau_alpha x) || p(z) )

The input is brought to the canonical frame, encoded and decoded there, and the reconstruction is brought *back*
and compared in the frame of x. So J needs no Jacobian and pays nothing for pushing the object out of the frame.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from avae.model import Frame, Params, check_images, check_key
from avae.networks.precision import in_precision
from avae.networks.vae import Posterior, block_means
from avae.runtime.mistake import Mistake
from avae.solvers import CompositeLoss
from avae.transforms import Transform


class Terms(NamedTuple):
    """The terms of J in nats, summed over pixels; `total` = `reconstruction` + `kl`. Scalars, or [B] for a batch."""

    reconstruction: Array
    kl: Array
    total: Array

    def weighted(self, beta: float) -> Array:
        """`reconstruction` + beta `kl`, what a beta-VAE is trained by (Higgins et al. 2017, eq. 4)."""
        return self.reconstruction + beta * self.kl


class Prediction(NamedTuple):
    """All that J depends on once x is given: the pixel means in the frame of x, and the posterior."""

    mean: Array
    mu: Array
    logvar: Array


def objective(params: Params, x: ArrayLike, alpha: ArrayLike | None = None, key: Array | None = None) -> Terms:
    """The terms of J at given poses.

    Args:
      params: the model.
      x: images [B, *space, C].
      alpha: poses [B, size]; None for a plain VAE, without any warp.
      key: draws one z per image; None puts z at the posterior mean.

    Returns:
      `Terms`, each [B], in nats (Bidart & Wong 2019, eq. 2, with the KL of each image on its own).

    Raises:
      Mistake: if x or alpha has the wrong shape, dtype or range; under a trace values cannot be checked.
    """
    check_key(key)
    x = check_images(x, params.model)
    if alpha is not None:
        alpha = jnp.asarray(alpha, jnp.float32)
        expected = (x.shape[0], params.model.transform.size)
        if alpha.shape != expected:
            raise Mistake(f"alpha: expected one pose per image, shape {expected}, got {alpha.shape}")
        if not isinstance(alpha, Tracer):
            _check_poses(alpha, params.model.transform)
    return batch_terms(params, x, alpha, key)


def batch_terms(params: Params, x: Array, alpha: Array | None = None, key: Array | None = None) -> Terms:
    """`objective` without its checks, for use inside compiled code: the one place where J is vmapped."""
    keys = None if key is None else jax.random.split(key, x.shape[0])
    axes = (None, 0, None if alpha is None else 0, None if keys is None else 0)
    return jax.vmap(terms, in_axes=axes)(params, x, alpha, keys)


def terms(params: Params, x: Array, alpha: Array | None = None, key: Array | None = None) -> Terms:
    """The terms of J for one example; `alpha` None: no warp, straight from the decoder's raw output.

    A canonical frame of its own is always reached by a warp, that of the identity where `alpha` is None.
    """
    model, weights = params.model, params.weights
    if alpha is None and model.frame != Frame():
        alpha = model.transform.identity
    if alpha is None:
        posterior = model.encode(weights, x)
        raw = model.networks.decode(weights, latent(posterior, key))
        return _terms(-model.likelihood.log_prob_raw(weights, x, raw), posterior)
    return score(params, x, predict(params, x, model.transform, alpha, key))


def predict(params: Params, x: Array, transform: Transform, alpha: Array, key: Array | None = None) -> Prediction:
    """tau_alpha x -> q(z) -> dec(z) -> tau_alpha^-1 dec(z), for one example."""
    model, weights = params.model, params.weights
    canonical = model.to_canonical(x, transform, alpha)
    posterior = model.encode(weights, canonical)
    decoded = model.decode(weights, latent(posterior, key))
    return Prediction(model.from_canonical(decoded, transform, alpha, x.shape[:-1]), *posterior)


def score(params: Params, x: Array, prediction: Prediction, block: int = 1) -> Terms:
    """The terms of J from what was predicted, for one example; a pixel of a reduced image counts for a `block`."""
    log_prob = params.model.likelihood.log_prob(params.weights, x, prediction.mean) * block
    return _terms(-log_prob, Posterior(prediction.mu, prediction.logvar))


def fisher(params: Params, x: Array, prediction: Prediction, beta: float = 1.0) -> Prediction:
    """Curvature of J in each predicted number: Fisher information of the pixels, beta times the Hessian of the KL."""
    pixels = params.model.likelihood.fisher(params.weights, prediction.mean)
    return Prediction(pixels, jnp.full_like(prediction.mu, beta), 0.5 * beta * jnp.exp(prediction.logvar))


def pose_loss(params: Params, transform: Transform, block: int = 1, beta: float = 1.0) -> CompositeLoss:
    """J(alpha; x) with z at the posterior mean, split so that Gauss-Newton can use it; its KL counts `beta` times."""
    network = params.model.pose_network if transform == params.model.transform else None
    return CompositeLoss(
        predict=lambda x, alpha: predict(params, x, transform, alpha),
        score=lambda x, prediction: score(params, x, prediction, block).weighted(beta),
        curvature=lambda x, prediction: fisher(params, x, prediction, beta),
        reduce=block_means,
        reduced=lambda factor: pose_loss(params.reduced(factor), transform, factor**transform.dim, beta),
        cast=lambda dtype: pose_loss(in_precision(params, dtype), transform, block, beta),
        propose=network and (lambda x, n: network.propose(params.weights["pose_network"], x, n, transform)),
        n_bins=0 if network is None else network.n_bins,
    )


def latent(posterior: Posterior, key: Array | None) -> Array:
    """Z = mu + sigma eps (the reparameterisation of Kingma & Welling 2014), or mu where no key is given."""
    if key is None:
        return posterior.mu
    return posterior.mu + jnp.exp(0.5 * posterior.logvar) * jax.random.normal(
        key, posterior.mu.shape, posterior.mu.dtype
    )


def gaussian_kl(posterior: Posterior) -> Array:
    """KL(N(mu, sigma^2) || N(0, I)) in nats (Kingma & Welling 2014, appendix B)."""
    return 0.5 * jnp.sum(posterior.mu**2 + jnp.exp(posterior.logvar) - posterior.logvar - 1)


def _check_poses(alpha: Array, transform: Transform) -> None:
    """Raises Mistake if one of concrete poses `alpha` [B, size] is outside the family's range."""
    outside = np.flatnonzero(np.isneginf(_log_priors(alpha, transform)))
    if len(outside):
        first = outside[0]
        raise Mistake(
            f"alpha: expected poses in the range of {transform}, but {len(outside)} of {len(alpha)} are outside, "
            f"first {first}: {alpha[first].tolist()}"
        )


@functools.partial(jax.jit, static_argnames="transform")
def _log_priors(alpha: Array, transform: Transform) -> Array:
    return jax.vmap(transform.log_prior)(alpha)


def _terms(reconstruction: Array, posterior: Posterior) -> Terms:
    kl = gaussian_kl(posterior)
    return Terms(reconstruction, kl, reconstruction + kl)
