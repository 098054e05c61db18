"""J(alpha; x), the negative ELBO of log p(x | alpha), and its terms: the paper's equation, in its order.

    J(alpha; x) = -E_{z ~ q(z | tau_alpha x)} [ log p(x | tau_alpha^-1 dec(z)) ] + KL( q(z | tau_alpha x) || p(z) )

The input is warped to the canonical frame, and encoded and decoded there. The reconstruction is warped *back* and
compared in the frame of x. So J needs no Jacobian, and gains nothing by pushing the object out of the frame.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from avae.checks import check_key, check_poses, images_for
from avae.model import Params
from avae.networks.vae import Posterior, gaussian_kl
from avae.runtime.devices import hiding_axes, is_explicit
from avae.settings import can_slide
from avae.slide import slide
from avae.solvers import CompositeLoss
from avae.transforms import Transform
from avae.transforms.frame import Frame
from avae.uncertainty import pose_std


class Terms(NamedTuple):
    """The terms of J in nats, summed over pixels; `total` = `reconstruction` + `kl`. Scalars, or [B] for a batch."""

    reconstruction: Array
    kl: Array
    total: Array

    def weighted(self, beta: float) -> Array:
        """`reconstruction` + beta `kl`, what a beta-VAE is trained by (Higgins et al. 2017, eq. 4)."""
        return self.reconstruction + beta * self.kl


class Info(NamedTuple):
    """Diagnostics of a search.

    Attributes:
      start_losses: loss of every start [B, n_starts], by the smaller twin where `Search.twin` > 1; some may not be
        finite.
      kept: indices of the kept starts, best first [B, top_k].
      identity_loss: loss of the first start [B], which is the identity.
      accepted: refinement steps of the winner that lowered its loss [B].
      finite: whether the loss at the pose that is returned is finite [B].
    """

    start_losses: Array
    kept: Array
    identity_loss: Array
    accepted: Array
    finite: Array


class Alignment(NamedTuple):
    """The result of `avae.align`.

    Attributes:
      alpha: the pose found for each image [B, size]; `transform` says in which units.
      matrix: its pull map tau_alpha* [B, d, d+1].
      loss: J at alpha*, z at the posterior mean, in nats [B]. A maximum over poses: not a bound on log p(x).
      std: standard deviation of the pose [B, dof], in the units of a tangent step, whatever the latent: from the joint
        curvature in pose and latent at this one mode (Laplace), or that of the parabola to which the pose settled
        (`Search.n_settle`), if larger. Infinite along a direction in which the image says
        nothing, and for a blank image. It does not cover other modes (`avae.pose_posterior` does), errors of the model,
        or the orientation of each kind of object in the canonical frame, which is the model's own: compare poses of two
        images of one object.
      canonical: tau_alpha* x, what the encoder sees [B, *space, C], in the shape of the canonical frame.
      reconstruction: tau_alpha*^-1 dec(mu), in the frame of x [B, *space, C].
      latent: posterior mean [B, z].
      info: see `Info`.
    """

    alpha: Array
    matrix: Array
    loss: Array
    std: Array
    canonical: Array
    reconstruction: Array
    latent: Array
    info: Info


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
    params, x = images_for(params, x)
    poses = None if alpha is None else check_poses(alpha, len(x), params.model.transform)
    return batch_terms(params, x, poses, key)


def batch_terms(
    params: Params, x: Array, alpha: Array | None = None, key: Array | None = None, seen: Array | None = None
) -> Terms:
    """`objective` without its checks, for use inside compiled code: the one place where J is vmapped.

    The encoder sees the images at the poses `seen`; None for alpha.
    """
    keys = None if key is None else jax.random.split(key, x.shape[0])
    axes = (0, *(None if leaf is None else 0 for leaf in (alpha, keys, seen)))
    each = jax.vmap(lambda x, alpha, key, seen: terms(params, x, alpha, key, seen), in_axes=axes)
    sharding = jax.typeof(x).sharding
    if is_explicit(sharding):  # keys and poses need not be split as x is
        return hiding_axes(lambda arrays: each(*arrays), sharding)((x, alpha, keys, seen))
    return each(x, alpha, keys, seen)


def terms(
    params: Params, x: Array, alpha: Array | None = None, key: Array | None = None, seen: Array | None = None
) -> Terms:
    """The terms of J for one example; `alpha` None: no warp, straight from the decoder's raw output.

    A canonical frame of its own is always reached by a warp, that of the identity where `alpha` is None.
    """
    model, weights = params.model, params.weights
    if alpha is None and model.frame != Frame():
        alpha = model.transform.identity
    if alpha is None:
        posterior = model.encode(weights, x)
        raw = model.networks.decode(weights, latent(posterior, key))
        return _terms(-model.log_prob_raw(weights, x, raw), posterior)
    return score(params, x, predict(params, x, model.transform, alpha, key, seen))


@functools.partial(jax.jit, static_argnames="transform")  # traced once for all the stages of a search
def predict(
    params: Params, x: Array, transform: Transform, alpha: Array, key: Array | None = None, seen: Array | None = None
) -> Prediction:
    """tau_alpha x -> q(z) -> dec(z) -> tau_alpha^-1 dec(z), for one example; the encoder's pose is `seen`, if given."""
    model, weights = params.model, params.weights
    canonical = model.to_canonical(x, transform, alpha if seen is None else seen)
    posterior = model.encode(weights, canonical)
    decoded = model.decode(weights, latent(posterior, key))
    return Prediction(model.from_canonical(decoded, transform, alpha, x.shape[:-1]), *posterior)


@functools.partial(jax.jit, static_argnames="block")
def score(params: Params, x: Array, prediction: Prediction, block: int = 1) -> Terms:
    """The terms of J from what was predicted, for one example; a pixel of a reduced image counts for a `block`."""
    log_prob = params.model.log_prob(params.weights, x, prediction.mean) * block
    return _terms(-log_prob, Posterior(prediction.mu, prediction.logvar))


def fisher(params: Params, x: Array, prediction: Prediction, beta: float = 1.0) -> Prediction:
    """Curvature of J in each predicted number: Fisher information of the pixels, beta times the Hessian of the KL."""
    pixels = params.model.fisher(params.weights, x, prediction.mean)
    return Prediction(pixels, jnp.full_like(prediction.mu, beta), 0.5 * beta * jnp.exp(prediction.logvar))


def pose_loss(
    params: Params, transform: Transform, block: int = 1, beta: float = 1.0, shifts: bool = True
) -> CompositeLoss:
    """J(alpha; x) with z at the posterior mean, split so that Gauss-Newton can use it; its KL counts `beta` times.

    It slides to the best of all shifts where it can, unless `shifts` is False.
    """
    slides = shifts and can_slide(params.model, transform)
    return CompositeLoss(
        predict=lambda x, alpha: predict(params, x, transform, alpha),
        score=lambda x, prediction: score(params, x, prediction, block).weighted(beta),
        curvature=lambda x, prediction: fisher(params, x, prediction, beta),
        slide=functools.partial(slide, params, transform, block, beta) if slides else None,
    )


def twin_loss(
    params: Params, x: Array, transform: Transform, factor: int, beta: float = 1.0
) -> tuple[CompositeLoss, Array] | None:
    """J by the networks' smaller twin, and x at a `factor`-th of its resolution; None where the factor is 1."""
    if factor == 1:
        return None
    return pose_loss(params.reduced(factor), transform, factor**transform.dim, beta), params.model.reduce(x, factor)


def describe(params: Params, x: Array, transform: Transform, found: Any) -> Alignment:
    """What the pose that was found for x means; `found` is an `avae.align.Found` for one example."""
    alpha, loss, info, prediction, covariance = found
    if prediction is None:
        prediction = predict(params, x, transform, alpha)
    std = pose_std(params, x, transform, alpha, prediction.mu) if transform.dof else jnp.zeros(0, alpha.dtype)
    if covariance is not None:
        seen = jnp.sqrt(jnp.diag(covariance))
        std = jnp.where(jnp.isfinite(seen), jnp.maximum(std, seen), std)
    return Alignment(
        alpha=alpha,
        matrix=transform.matrix(alpha),
        loss=loss,
        std=std,
        canonical=params.model.to_canonical(x, transform, alpha),
        reconstruction=prediction.mean,
        latent=prediction.mu,
        info=info,
    )


def latent(posterior: Posterior, key: Array | None) -> Array:
    """Z = mu + sigma eps (the reparameterisation of Kingma & Welling 2014), or mu where no key is given."""
    if key is None:
        return posterior.mu
    return posterior.mu + jnp.exp(0.5 * posterior.logvar) * jax.random.normal(
        key, posterior.mu.shape, posterior.mu.dtype
    )


def _terms(reconstruction: Array, posterior: Posterior) -> Terms:
    kl = gaussian_kl(posterior)
    return Terms(reconstruction, kl, reconstruction + kl)
