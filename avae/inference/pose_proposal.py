"""Where the pose of one example may be: the refined modes of J, and a mixture around them to draw poses from.

Every density here is with respect to the prior's volume, in tangent units, as `Transform.log_prior` is.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.special import ndtr, ndtri

from avae.align import look_around, score, survey
from avae.runtime.parts import in_turn
from avae.runtime.products import matmul
from avae.settings import Search
from avae.solvers import CompositeLoss, Twin, best, comparable, linearise, refine, slides
from avae.transforms import Transform

APART = 2.5  # kept starts lie so many half-widths of their cells apart
DISTINCT = 2.0  # a mode nearer than so many standard deviations to a better one is the same
WIDER = 1.3  # a proposal's standard deviations over those of the curvature: tails too long cost less than too short
SHARED = 0.3  # of the weight of all modes is shared out evenly: their heights are only estimates
FLOOR = 1e-4  # least standard deviation of a proposal, in half-widths of the family


class Modes(NamedTuple):
    """The best refined poses of one example, best first.

    Attributes:
      alpha: poses [K, size].
      loss: J there, z at the posterior mean, in nats [K].
      covariance: of a normal law in the tangent space of each, from the curvature of J [K, dof, dof].
      distinct: false for a mode that was found before [K].
    """

    alpha: Array
    loss: Array
    covariance: Array
    distinct: Array


class Mixture(NamedTuple):
    """Truncated normals in the tangent spaces of K poses, and the prior as the last component.

    Given the entries before it, entry i of a step v from a centre is normal with mean `regression[i] @ v` and standard
    deviation `scale[i]`, truncated to the range of the family. So draws stay in the family, and the density is exact:
    that of a normal vector, one entry at a time (docs/theory.md, equation (12)).

    Attributes:
      centre: poses [K, size].
      regression: strictly lower triangular [K, dof, dof].
      scale: standard deviations [K, dof].
      log_weight: of each component, the prior last [K + 1].
    """

    centre: Array
    regression: Array
    scale: Array
    log_weight: Array


def find_modes(
    loss_fn: CompositeLoss,
    x: Any,
    starts: Array,
    transform: Transform,
    search: Search,
    n_modes: int,
    twin: Twin = None,
    n_cells: Any = None,
) -> Modes:
    """Scores the starts, keeps `n_modes` of them that lie apart, refines each, and looks which are the same.

    `twin` and `n_cells` are those of `avae.align.search_one`.
    """
    scores, cells = survey(*(twin or (loss_fn, x)), starts), n_cells or len(starts)
    kept = spaced(comparable(scores.loss), scores.alpha, transform, n_modes, transform.cell(cells, not slides(loss_fn)))

    def improve(start: Array) -> tuple[Array, Array, Array]:
        nearby = look_around(loss_fn, x, score(loss_fn, x, start[None]), transform, search.n_local, cells)
        refined = refine(loss_fn, x, best(nearby, 1).alpha[0], transform, search.solver, search.n_steps)
        return refined.alpha, comparable(refined.loss), laplace(loss_fn, x, refined.alpha, transform)

    found = in_turn(improve, scores.alpha[kept], x) if transform.dof else lax.map(improve, starts[kept])
    order = jnp.argsort(found[1])
    alpha, loss, covariance = (part[order] for part in found)
    return Modes(alpha, loss, covariance, distinct_modes(alpha, covariance, transform))


def spaced(scores: Array, starts: Array, transform: Transform, n: int, cell: Array) -> Array:
    """Indices [n] of good starts that lie apart: those better than their neighbours first, then the best left.

    `cell` are the half-widths [dof] of the part that each stands for; where it has none, distances do not matter.
    """
    apart = jnp.where(cell > 0, jnp.minimum(APART * cell, transform.cell(1) / 2), jnp.inf)

    def close(a: Array, b: Array) -> Array:
        return transform.connected(a, b) & jnp.all(jnp.abs(transform.step(a, b)) < apart)

    near = jax.vmap(lambda a: jax.vmap(lambda b: close(a, b))(starts))(starts)  # [n_starts, n_starts], for all images
    finite = jnp.where(jnp.isfinite(scores), scores, -jnp.inf)
    last = jnp.max(finite) - jnp.min(scores) + 1.0
    slope = scores > jnp.min(jnp.where(near, scores[None], jnp.inf), axis=1)

    def pick(left: Array, _: None) -> tuple[Array, Array]:
        best = jnp.argmin(left)
        return jnp.where(near[best], jnp.inf, left), best

    return lax.scan(pick, scores + jnp.where(slope, last, 0.0), length=n)[1]


def laplace(loss_fn: CompositeLoss, x: Any, alpha: Array, transform: Transform) -> Array:
    """Covariance [dof, dof] of the pose at a mode, from the curvature of J there."""
    if transform.dof == 0:
        return jnp.zeros((0, 0), alpha.dtype)
    return width(linearise(loss_fn, x, alpha, transform).hessian, transform)


def width(hessian: Array, transform: Transform) -> Array:
    """Covariance [dof, dof] of a pose: the inverse of a curvature [dof, dof], no wider than the family."""
    if transform.dof == 0:
        return hessian
    extent = transform.cell(1)
    hessian = hessian * (extent[:, None] * extent[None])
    hessian = jnp.where(jnp.isfinite(hessian).all(), hessian, 0.0)
    ridge = 1 + 1e-5 * jnp.max(jnp.diag(hessian))
    return jnp.linalg.inv(hessian + ridge * jnp.eye(transform.dof, dtype=hessian.dtype)) * (
        extent[:, None] * extent[None]
    )


def distinct_modes(alpha: Array, covariance: Array, transform: Transform) -> Array:
    """Which poses [K, size], best first, lie further than `DISTINCT` standard deviations from all better ones [K]."""
    regression, scale = jax.vmap(lambda matrix: factorise(matrix, transform))(covariance)

    def same(i: Array, j: Array) -> Array:
        step = transform.step(alpha[i], alpha[j])
        length = jnp.linalg.norm((step - matmul(regression[i], step)) / scale[i])
        return transform.connected(alpha[i], alpha[j]) & (length < DISTINCT)

    n = jnp.arange(len(alpha))
    matrix = jax.vmap(lambda j: jax.vmap(lambda i: same(i, j) & (i < j))(n))(n)
    return ~matrix.any(axis=1)


def factorise(covariance: Array, transform: Transform) -> tuple[Array, Array]:
    """Regression [dof, dof] of each entry on those before it, and what is left of its standard deviation [dof]."""
    dof = transform.dof
    if dof == 0:
        return covariance, jnp.diag(covariance)
    extent, unit = transform.cell(1), jnp.eye(dof, dtype=covariance.dtype)
    lower = jnp.linalg.cholesky(covariance / (extent[:, None] * extent[None]) + FLOOR**2 * unit)
    lower = jnp.where(jnp.isfinite(lower).all(), lower, unit)
    scale = jnp.diag(lower)
    inverse = jax.scipy.linalg.solve_triangular(lower, unit, lower=True)
    regression = jnp.tril(unit - scale[:, None] * inverse, -1)
    return regression * (extent[:, None] / extent[None]), scale * extent


def mixture(
    centre: Array, covariance: Array, log_weight: Array, prior: float, transform: Transform, wider: float = 1.0
) -> Mixture:
    """The mixture with components at `centre` [K, size], whose weights exp(log_weight) [K] need not sum to one.

    Args:
      centre: poses [K, size].
      covariance: in the tangent space of each [K, dof, dof].
      log_weight: of each [K]; -inf for one that is not to be used.
      prior: weight of the prior, in [0, 1]; 1 where no component is to be used.
      transform: the family.
      wider: factor on all standard deviations.
    """
    regression, scale = jax.vmap(lambda matrix: factorise(matrix, transform))(covariance)
    used = jnp.isfinite(log_weight)
    share = jnp.where(used, jax.nn.log_softmax(log_weight), -jnp.inf) + (math.log1p(-prior) if prior < 1 else -jnp.inf)
    last = jnp.where(used.any(), math.log(prior) if prior > 0 else -jnp.inf, 0.0)
    return Mixture(centre, regression, scale * wider, jnp.append(share, last.astype(share.dtype)))


def around_modes(modes: Modes, prior: float, transform: Transform) -> Mixture:
    """The proposal of B4: a wider normal at each distinct mode, weighted by its Laplace mass, and the prior.

    Where J is finite at no mode, the prior alone.
    """
    _, scale = jax.vmap(lambda matrix: factorise(matrix, transform))(modes.covariance)
    used = modes.distinct & jnp.isfinite(modes.loss)
    mass = jnp.where(used, -modes.loss + jnp.log(scale).sum(axis=1), -jnp.inf)
    even = used.astype(mass.dtype) / jnp.maximum(used.sum(), 1).astype(mass.dtype)
    share = jnp.where(used, (1 - SHARED) * jax.nn.softmax(mass) + SHARED * even, 0.0)
    return mixture(modes.alpha, modes.covariance, jnp.log(share), prior, transform, WIDER)


def draw(mixture: Mixture, transform: Transform, key: Array) -> Array:
    """One pose [size] from the mixture."""
    which, walk, anywhere = jax.random.split(key, 3)
    k = jax.random.categorical(which, mixture.log_weight)
    last = len(mixture.centre)
    u = jax.random.uniform(walk, (transform.dof,), mixture.scale.dtype, 1e-7, 1 - 1e-7)
    centre, regression, scale = (part[jnp.minimum(k, last - 1)] for part in mixture[:3])

    def entry(i: Array, step: Array) -> Array:
        mean, width, low, high = (part[i] for part in _conditionals(regression, scale, centre, step, transform))
        below, above = ndtr((low - mean) / width), ndtr((high - mean) / width)
        drawn = mean + width * ndtri(below + u[i] * (above - below))
        return step.at[i].set(jnp.clip(drawn, low, high))

    step = jnp.where(True, jnp.zeros_like(u), scale)  # inside `shard_map` of a type that varies as the entries do
    if transform.dof:  # not unrolled: XLA would repeat every entry in all that follow it, and compile for minutes
        step = lax.fori_loop(0, transform.dof, entry, step)
    near = transform.project(transform.retract(centre, step))
    return jnp.where(k == last, transform.sample(anywhere), near)


def log_density(mixture: Mixture, transform: Transform, alpha: Array) -> Array:
    """Log density of the mixture at a pose [size], in nats; components that cannot reach it count for nothing."""
    return jax.nn.logsumexp(log_parts(mixture, transform, alpha))


def log_parts(mixture: Mixture, transform: Transform, alpha: Array) -> Array:
    """Log of each component's part [K + 1] of the density at a pose [size], its weight included, the prior's last."""

    def component(centre: Array, regression: Array, scale: Array) -> Array:
        step = transform.step(centre, alpha)
        mean, width, low, high = _conditionals(regression, scale, centre, step, transform)
        inside = jnp.log(ndtr((high - mean) / width) - ndtr((low - mean) / width))
        normal = -0.5 * ((step - mean) / width) ** 2 - jnp.log(width) - 0.5 * math.log(2 * math.pi)
        density = jnp.sum(normal - inside) - transform.log_measure(step)
        return jnp.where(transform.connected(centre, alpha), density, -jnp.inf)

    near = jax.vmap(component)(*mixture[:3])
    near = jnp.where(jnp.isfinite(transform.log_prior(alpha)), near, -jnp.inf)
    everywhere = jnp.append(near, transform.log_prior(alpha))
    used = jnp.isfinite(mixture.log_weight)
    return jnp.where(used, everywhere + jnp.where(used, mixture.log_weight, 0.0), -jnp.inf)


def _conditionals(
    regression: Array, scale: Array, centre: Array, step: Array, transform: Transform
) -> tuple[Array, Array, Array, Array]:
    """Mean, standard deviation and bounds [dof] of each entry of a step given those before it.

    The mean is clipped to the bounds, and the deviation to at most their distance. Any function of the entries before
    gives a density; this one keeps the mass that is cut off small in single precision.
    """
    low, high = transform.reach(centre, step)
    mean = jnp.clip(matmul(regression, step), low, high)
    width = jnp.clip(scale, 1e-9, jnp.maximum(high - low, 1e-9))
    return mean, width, low, high
