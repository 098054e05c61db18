"""Lower bounds on log p(x), the pose integrated out and its price included; docs/theory.md has the proofs.

    log p(x) >= E[ log 1/M sum_m p(x, z_m | alpha_m) p(alpha_m) / ( q(z_m | x, alpha_m) q(alpha_m | x) ) ]

The maximum over poses, -J(alpha*; x), is not such a bound: it pays nothing for the pose, and may lie above log p(x).
Every function is written for one example; `_bound` is the one place where examples are vmapped.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from avae import settings
from avae.checks import check_key, images_for
from avae.inference.checks import check_model, check_modes
from avae.inference.importance import (
    Bound,
    Problem,
    effective_samples,
    log_mean,
    weighted_poses,
)
from avae.inference.pose_proposal import draw, mixture
from avae.model import Params
from avae.runtime.mistake import Mistake
from avae.runtime.parts import Layout, in_parts, layout_of
from avae.settings import Plan, Search
from avae.transforms import Transform
from avae.transforms.planar import Still
from avae.transforms.spatial import Still3D

GRID = 720  # poses of the quadrature, B5


def log_likelihood(
    params: Params,
    x: ArrayLike,
    *,
    key: Array | None = None,
    method: str = "importance",
    n_samples: int = 256,
    n_modes: int | None = None,
    search: Search | Mapping[str, Any] | str | None = None,
    transform: Transform | None = None,
) -> Bound:
    """A lower bound on log p(x) of each image: pose and latent integrated out.

    The model is alpha ~ the family's prior, z ~ N(0, I), x ~ p(x | tau_alpha^-1 dec(z)). On grey pixels the Bernoulli
    likelihood is a cross-entropy, not a density. The bound is then one too: compare it with such bounds only.

    Args:
      params: a trained model.
      x: images [B, H, W, C] (volumes [B, D, H, W, C]), float.
      key: makes all draws; None for a fixed key.
      method: "multi_start" (B1, equation (5)): poses from the prior. "finite" (B2, (6)): all elements of a finite
        family. "laplace" (B3, (8)): an ELBO with a normal law around the best pose; on a finite family, that alone.
        "importance" (B4, (9)): from a mixture around the refined modes and the prior, z from a law refined with them.
        "quadrature" (B5, (10)): a shifted grid of 720 poses, for families of one dimension, z as in B4. "iwae" (2): the
        pose held at the identity, for a plain VAE, z as in B4.
      n_samples: draws of (alpha, z) for each image; "finite" and "quadrature" make as many draws of z at each pose.
      n_modes: modes of B4; None for the number of starts that the search keeps, at least 4.
      search: settings of the search for the modes; None for the model's own, or the family's where `transform` is
        another.
      transform: the family; None for the model's own.

    Returns:
      A `Bound`. An image unlike all that the model makes has a low one; nothing is raised inside compiled code.

    Raises:
      Mistake: if x has the wrong shape, dtype or range, the method is unknown or does not suit the family, there
        are fewer than 2 draws or more modes than starts, the weights are not finite, the family has no proper prior,
        or the likelihood is not normalised.
    """
    if method not in METHODS:
        raise Mistake(f"method: expected one of {tuple(METHODS)}, got {method!r}")
    family = check_model(params, transform)
    if method == "finite" and family.dof:
        raise Mistake(f'method "finite" expects a finite family, got {family!r} with {family.dof} degrees of freedom')
    if method == "quadrature" and (family.dof, len(family.factors)) != (1, 1):
        raise Mistake(f'method "quadrature" expects a family of one dimension, got {family!r}')
    if n_samples < 2:
        raise Mistake(f"n_samples: expected at least 2, since one draw has no standard error, got {n_samples}")
    key = jax.random.key(0) if key is None else key
    check_key(key)
    plan = settings.plan(params.model, search, family)
    n_modes = check_modes(n_modes, plan, family)
    params, x = images_for(params, x)
    return _bound(params, x, key, method, n_samples, n_modes, plan, family, layout_of(x))


def multi_start(problem: Problem, key: Array) -> Bound:
    """B1, docs/theory.md (5): independent poses from the prior. Shared or refined starts would not be draws from it."""
    family = problem.transform
    return log_mean(problem.weigh(key, family.sample)[None])


def finite(problem: Problem, key: Array) -> Bound:
    """B2, docs/theory.md (6): the sum over all elements of a finite family."""
    return log_mean(problem.weigh_poses(key, problem.transform.lattice))


def laplace(problem: Problem, key: Array) -> Bound:
    """B3, docs/theory.md (8): the ELBO whose q(alpha) is a normal law around the best pose, cut to the family."""
    modes = problem.modes(1)
    q = mixture(modes.alpha, modes.covariance, jnp.zeros_like(modes.loss), 0.0, problem.transform)
    log_weights = problem.weigh(key, lambda key: draw(q, problem.transform, key), problem.price(q))
    value, error = log_weights.mean(), log_weights.std(ddof=1) / math.sqrt(problem.n_samples)
    return Bound(value, error, effective_samples(log_weights))


def importance(problem: Problem, key: Array) -> Bound:
    """B4, docs/theory.md (9): fresh draws from the mixture of the refined modes and the prior, z from (3b)."""
    return log_mean(weighted_poses(problem, problem.proposal()[1], key)[1][None])


def quadrature(problem: Problem, key: Array) -> Bound:
    """B5, docs/theory.md (10): 720 poses under one random shift, for families of one dimension; z as in B4."""
    shift, key = jax.random.split(key)
    u = (jnp.arange(GRID, dtype=jnp.float32) + jax.random.uniform(shift, dtype=jnp.float32)) / GRID
    poses = jax.vmap(problem.transform.factors[0].place)(u[:, None])
    return log_mean(problem.weigh_poses(key, poses, problem.proposal()[1]))


def iwae(problem: Problem, key: Array) -> Bound:
    """The bound of a VAE without poses, docs/theory.md (2): B4 on the family whose only element is the identity."""
    still = Still3D() if problem.transform.dim == 3 else Still()
    return importance(problem._replace(transform=still, plan=Plan(settings.ALONE, False), n_modes=1), key)


METHODS: dict[str, Callable[[Problem, Array], Bound]] = {
    method.__name__: method for method in (multi_start, finite, laplace, importance, quadrature, iwae)
}


@functools.partial(jax.jit, static_argnames=("method", "n_samples", "n_modes", "plan", "transform", "layout"))
def _bound(
    params: Params,
    x: Array,
    key: Array,
    method: str,
    n_samples: int,
    n_modes: int,
    plan: Plan,
    transform: Transform,
    layout: Layout,
) -> Bound:
    def one(x: Array, key: Array) -> Bound:
        return METHODS[method](Problem(params, x, transform, plan, n_samples, n_modes), key)

    return in_parts(lambda pair: one(*pair), (x, jax.random.split(key, len(x))), layout)
