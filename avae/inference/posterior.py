"""p(alpha | x): how sure the pose of an image is, and which other poses would explain it.

It is the posterior of the model, with z integrated out. Poses are weighted as in the bound B4 (docs/theory.md,
equation (14)). Where weights do not suffice, a mixture fitted to the weighted draws is the density.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array, lax
from jax.typing import ArrayLike

from avae import settings
from avae.checks import check_key, images_for
from avae.inference.checks import check_model, check_modes
from avae.inference.importance import Bound, Problem, log_mean, weighted_poses
from avae.inference.pose_proposal import Mixture, Modes, log_density, mixture
from avae.model import Params
from avae.runtime.mistake import Mistake
from avae.runtime.parts import Layout, in_parts, layout_of
from avae.runtime.products import einsum
from avae.settings import Plan, Search
from avae.transforms import Transform

BACKGROUND = 0.02  # weight of the prior in the fitted density: no pose is impossible
SHRINK = 2.0  # so many draws are worth the curvature's covariance in the covariance of a mode
FOLDS = 4  # parts of the draws, each of which is judged by a density fitted to the others


class PosePosterior(struct.PyTreeNode):
    """The posterior of the pose of each image, by weighted draws.

    Attributes:
      modes: poses of the highest p(alpha, z | x), by p(x | alpha), best first; repeats carry no weight [B, K, size].
      weights: posterior probability of the poses that are nearer to a mode than to the others; sum to one [B, K].
      covariance: of these poses, as tangent steps from the mode [B, K, dof, dof]; radians, half-widths.
      entropy: of the fitted density, in nats, relative to the volume in tangent units [B]; the prior's is the log of
        its volume. At least the entropy of the posterior, up to the error of the draws.
      draws: poses from the proposal [B, M, size].
      log_weights: log of their self-normalised importance weights [B, M].
      log_proposals: log density of the proposal at the draws [B, M].
      heights: log density at each draw by a mixture that was fitted without it [B, M].
      evidence: the bound B4 on log p(x), by the same draws; its `effective_samples` say how much to trust the rest.
      fit: the fitted mixture.
      transform: the family.
    """

    modes: Array
    weights: Array
    covariance: Array
    entropy: Array
    draws: Array
    log_weights: Array
    log_proposals: Array
    heights: Array
    evidence: Bound
    fit: Mixture
    transform: Transform = struct.field(pytree_node=False)

    def sample(self, n: int, *, key: Array | None = None) -> Array:
        """`n` poses for each image [B, n, size], drawn with replacement from the weighted draws (Rubin 1988)."""
        check_key(key)
        keys = jax.random.split(jax.random.key(0) if key is None else key, len(self.draws))

        def one(key: Array, log_weights: Array, draws: Array) -> Array:
            return draws[jax.random.categorical(key, log_weights, shape=(n,))]

        return jax.vmap(one)(keys, self.log_weights, self.draws)

    def log_density(self, alpha: ArrayLike) -> Array:
        """Log density [B, n] of the fit at poses [B, n, size], in nats per tangent unit."""
        alpha = jnp.asarray(alpha, jnp.float32)
        expected = (len(self.modes), self.transform.size)
        if alpha.ndim != 3 or (alpha.shape[0], alpha.shape[2]) != expected:
            raise Mistake(f"alpha: expected poses [{expected[0]}, n, {expected[1]}], got shape {alpha.shape}")
        return _log_density(self.fit, alpha, self.transform)

    def level(self, mass: float = 0.9) -> Array:
        """The log density [B] above which the fit holds `mass` of the posterior: the border of the credible region.

        Read off `heights`: where a fit has seen the draws it is too high, and the region would be too small.
        """
        if not 0 < mass < 1:
            raise Mistake(f"mass: expected 0 < mass < 1, got {mass}")
        order = jnp.argsort(-self.heights, axis=1)
        held = jnp.cumsum(jnp.exp(jnp.take_along_axis(self.log_weights, order, axis=1)), axis=1)
        last = jnp.argmax(held >= mass - 1e-6, axis=1)
        return jnp.take_along_axis(self.heights, jnp.take_along_axis(order, last[:, None], axis=1), axis=1)[:, 0]

    def contains(self, alpha: ArrayLike, mass: float = 0.9) -> Array:
        """Whether poses [B, n, size] are in the credible region: where the density is highest, `mass` in all [B, n]."""
        return self.log_density(alpha) >= self.level(mass)[:, None] - 1e-4

    def volume(self, mass: float = 0.9) -> Array:
        """Volume [B] of the credible region in tangent units, estimated from the draws; of a finite family, a count."""
        inside = self.contains(self.draws, mass)
        return jnp.mean(jnp.where(inside, jnp.exp(-self.log_proposals), 0.0), axis=1)


def pose_posterior(
    params: Params,
    x: ArrayLike,
    *,
    key: Array | None = None,
    n_modes: int | None = None,
    n_samples: int = 256,
    search: Search | Mapping[str, Any] | str | None = None,
    transform: Transform | None = None,
) -> PosePosterior:
    """The posterior of the pose of each image, its latent integrated out.

    Args:
      params: a trained model.
      x: images [B, H, W, C] (volumes [B, D, H, W, C]), float.
      key: makes all draws; None for a fixed key.
      n_modes: modes looked for; None for the number of starts that the search keeps, at least 4, or all elements of a
        finite family.
      n_samples: draws of (alpha, z) for each image; for a finite family, at least one at each element.
      search: settings of the search for the modes; None for the model's own, or the family's where `transform` is
        another.
      transform: the family; None for the model's own.

    Returns:
      A `PosePosterior`; where no draw has any weight, its entropy is that of the prior and its weights are equal.

    Raises:
      Mistake: as `log_likelihood`.
    """
    family = check_model(params, transform)
    if n_samples < 2:
        raise Mistake(f"n_samples: expected at least 2, got {n_samples}")
    key = jax.random.key(0) if key is None else key
    check_key(key)
    plan = settings.plan(params.model, search, family)
    wanted = len(family.lattice) if n_modes is None and family.dof == 0 else n_modes
    n_modes = check_modes(wanted, plan, family)
    params, x = images_for(params, x)
    return _posterior(params, x, key, n_samples, n_modes, plan, family, layout_of(x))


@functools.partial(jax.jit, static_argnames=("n_samples", "n_modes", "plan", "transform", "layout"))
def _posterior(
    params: Params,
    x: Array,
    key: Array,
    n_samples: int,
    n_modes: int,
    plan: Plan,
    transform: Transform,
    layout: Layout,
) -> PosePosterior:
    def one(x: Array, key: Array) -> PosePosterior:
        return posterior_one(Problem(params, x, transform, plan, n_samples, n_modes), key)

    return in_parts(lambda pair: one(*pair), (x, jax.random.split(key, len(x))), layout)


def posterior_one(problem: Problem, key: Array) -> PosePosterior:
    """Modes -> weighted draws -> each to its nearest mode -> moments -> fitted density, for one example."""
    family, (modes, near) = problem.transform, problem.proposal()
    draws, log_weights, log_proposals = weighted_poses(problem, near, key)
    evidence = log_mean(log_weights[None])
    log_weights = normalised(log_weights)
    weights, covariance, fit = fit_density(modes, draws, log_weights, family)
    heights = held_out(modes, draws, log_weights, family)
    if family.dof == 0:  # nothing but weights is fitted, and a part may hold all draws of an element
        heights = jax.vmap(lambda alpha: log_density(fit, family, alpha))(draws)
    entropy = -jnp.sum(jnp.where(log_weights > -30, jnp.exp(log_weights) * heights, 0.0))
    return PosePosterior(
        modes.alpha, weights, covariance, entropy, draws, log_weights, log_proposals, heights, evidence, fit, family
    )


def normalised(log_weights: Array) -> Array:
    """Log weights [M] that sum to one; equal where none is positive."""
    return jax.nn.log_softmax(jnp.where(jnp.isfinite(log_weights).any(), log_weights, 0.0))


def fit_density(modes: Modes, draws: Array, log_weights: Array, transform: Transform) -> tuple[Array, Array, Mixture]:
    """Weight [K] and covariance [K, dof, dof] of each mode by the weighted draws [M, size], and the mixture of them."""
    weights, covariance = moments(modes, draws, jnp.exp(log_weights), transform)
    exhaustive = transform.dof == 0 and len(modes.alpha) == len(transform.lattice)
    prior = 0.0 if exhaustive else BACKGROUND
    return weights, covariance, mixture(modes.alpha, covariance, jnp.log(weights), prior, transform)


def held_out(modes: Modes, draws: Array, log_weights: Array, transform: Transform) -> Array:
    """Log density [M] at each draw by the fit to the draws of the other parts (cross-fitting)."""
    part = jnp.arange(len(draws)) % FOLDS

    def judged(k: Array) -> Array:
        others = normalised(jnp.where(part == k, -jnp.inf, log_weights))
        fit = fit_density(modes, draws, others, transform)[2]
        return jax.vmap(lambda alpha: log_density(fit, transform, alpha))(draws)

    return lax.map(judged, jnp.arange(FOLDS))[part, jnp.arange(len(draws))]


def moments(modes: Modes, draws: Array, weights: Array, transform: Transform) -> tuple[Array, Array]:
    """Weight [K] and scatter [K, dof, dof] about each mode of the weighted draws [M, size] that are nearest to it."""

    def to_modes(alpha: Array) -> tuple[Array, Array]:
        distance = jax.vmap(lambda mode: transform.distance(mode, alpha))(modes.alpha)
        nearest = jnp.argmin(jnp.where(modes.distinct, distance, jnp.inf))
        return nearest, transform.step(modes.alpha[nearest], alpha)

    nearest, steps = jax.vmap(to_modes)(draws)
    shares = weights[:, None] * jax.nn.one_hot(nearest, len(modes.alpha), dtype=weights.dtype)  # [M, K]
    reached = jnp.where(jax.vmap(transform.connected)(modes.alpha[nearest], draws)[:, None], shares, 0.0)
    scatter = einsum("mk,mi,mj->kij", reached, steps, steps)
    few = SHRINK * jnp.max(weights)  # where hardly any weight fell, the curvature speaks
    covariance = (scatter + few * modes.covariance) / (reached.sum(axis=0) + few)[:, None, None]
    return shares.sum(axis=0), covariance


@functools.partial(jax.jit, static_argnames="transform")
def _log_density(fit: Mixture, alpha: Array, transform: Transform) -> Array:
    return jax.vmap(lambda fit, alpha: jax.vmap(lambda one: log_density(fit, transform, one))(alpha))(fit, alpha)
