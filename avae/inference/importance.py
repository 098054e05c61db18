"""What bounds and posteriors are made of: weighted draws of pose and latent for one example, and their sums."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from avae.inference.latent_proposal import (
    Proposal,
    draw_latent,
    encoder_log_density,
    given_pose,
    latent_log_density,
    refine_jointly,
)
from avae.inference.pose_proposal import Modes, around_modes, draw, find_modes, log_density
from avae.model import Params
from avae.networks.vae import Posterior
from avae.objective import latent, pose_loss, twin_loss
from avae.settings import Plan
from avae.starts import starting_poses
from avae.transforms import Transform

PRIOR = 0.1  # weight of the prior in the proposal of B4: no pose has less than a tenth of its prior density
CHUNK = 8  # draws computed together


class Bound(NamedTuple):
    """A lower bound on log p(x) for each image, in nats; each [B].

    Attributes:
      value: the estimate; its expectation lies below log p(x).
      standard_error: of `value`, by the delta method; infinite where no draw has any weight.
      effective_samples: (sum w)^2 / sum w^2 of the importance weights: few mean that the bound is loose and its
        standard error too small.
    """

    value: Array
    standard_error: Array
    effective_samples: Array


class Problem(NamedTuple):
    """One example with the model that is to explain it, and how much work that may take."""

    params: Params
    x: Array
    transform: Transform
    plan: Plan
    n_samples: int
    n_modes: int

    def modes(self, n: int) -> Modes:
        """The `n` best modes of J."""
        params, x, family, search = self.params, self.x, self.transform, self.plan.search
        starts, n_cells = starting_poses(params, x, family, self.plan, None)
        twin = twin_loss(params, x, family, search.twin)
        return find_modes(pose_loss(params, family), x, starts, family, search, n, twin, n_cells)

    def proposal(self) -> tuple[Modes, Proposal]:
        """The best modes of pose and latent together, and the proposal of B4 around them."""
        modes, latents = refine_jointly(self.params, self.x, self.modes(self.n_modes), self.transform)
        return modes, Proposal(around_modes(modes, PRIOR, self.transform), latents)

    def weigh(self, key: Array, pose: Callable[[Array], Array], price: Callable[[Array], Any] | None = None) -> Array:
        """Log weights [n_samples] of draws (alpha, z), alpha by `pose(key)`; `price` is log p(alpha)/q(alpha)."""

        def one(key: Array) -> Array:
            pose_key, latent_key = jax.random.split(key)
            alpha = pose(pose_key)
            return self.log_weight(alpha, latent_key) + (0.0 if price is None else price(alpha))

        return lax.map(one, jax.random.split(key, self.n_samples), batch_size=CHUNK)

    def weigh_poses(self, key: Array, poses: Array, proposal: Proposal | None = None) -> Array:
        """Log weights [K, n_samples] of draws of z at each of `poses` [K, size]."""
        keys = jax.random.split(key, (len(poses), self.n_samples))

        def at(pair: tuple[Array, Array]) -> Array:
            alpha, keys = pair
            return lax.map(lambda key: self.log_weight(alpha, key, proposal), keys, batch_size=CHUNK)

        return lax.map(at, (poses, keys))

    def price(self, q: Any) -> Callable[[Array], Array]:
        """The function alpha -> log p(alpha) - log q(alpha)."""
        return lambda alpha: self.transform.log_prior(alpha) - log_density(q, self.transform, alpha)

    def encoder(self, alpha: Array) -> Posterior:
        """q(z | x, alpha): what the encoder says of x at a pose [size]."""
        model = self.params.model
        return model.encode(self.params.weights, model.to_canonical(self.x, self.transform, alpha))

    def log_joint(self, alpha: Array, z: Array) -> Array:
        """Log p(x, z | alpha) for a pose [size] and a latent [n]."""
        model, weights = self.params.model, self.params.weights
        mean = model.from_canonical(model.decode(weights, z), self.transform, alpha, self.x.shape[:-1])
        prior = -0.5 * jnp.sum(z**2 + math.log(2 * math.pi))
        return model.log_prob(weights, self.x, mean) + prior

    def log_weight(self, alpha: Array, key: Array, proposal: Proposal | None = None) -> Array:
        """Log p(x, z | alpha) - log q(z | x, alpha) for one z drawn from q, docs/theory.md (3); -inf for NaN.

        With a `proposal`, z is drawn from r instead (3b). In both cases the mean of the exponential is p(x | alpha). It
        would not be with the analytic KL, or with z at the posterior mean.
        """
        encoder = self.encoder(alpha)
        if proposal is None:
            z = latent(encoder, key)
            density = encoder_log_density(encoder, z)
        else:
            law = given_pose(proposal, alpha, encoder, self.transform)
            z = draw_latent(law, key)
            density = latent_log_density(law, z)
        log_weight = self.log_joint(alpha, z) - density
        return jnp.where(jnp.isfinite(log_weight), log_weight, -jnp.inf)


def weighted_poses(problem: Problem, near: Proposal, key: Array) -> tuple[Array, Array, Array]:
    """Poses [M, size] from a proposal, their log weights, and log densities under it, both [M].

    M is `n_samples`; the elements of a finite family are drawn equally often instead, each at least once.
    """
    family, n = problem.transform, problem.n_samples
    pose_key, latent_key = jax.random.split(key)
    if family.dof == 0:
        count = len(family.lattice)
        poses = jnp.tile(family.lattice, (math.ceil(n / count), 1))
        density = jnp.full(len(poses), -math.log(count), poses.dtype)
    else:
        poses = jax.vmap(lambda key: draw(near.poses, family, key))(jax.random.split(pose_key, n))
        density = jax.vmap(lambda alpha: log_density(near.poses, family, alpha))(poses)
    keys = jax.random.split(latent_key, len(poses))
    evidence = lax.map(lambda pair: problem.log_weight(pair[0], pair[1], near), (poses, keys), batch_size=CHUNK)
    return poses, evidence + jax.vmap(family.log_prior)(poses) - density, density


def log_mean(log_weights: Array) -> Bound:
    """Log of the mean weight, over strata [K, n] of equal probability; docs/theory.md (11)."""
    highest = jnp.max(log_weights)
    weights = jnp.exp(log_weights - jnp.where(jnp.isfinite(highest), highest, 0.0))
    mean = weights.mean()
    error = jnp.sqrt(weights.var(axis=1, ddof=1).mean() / weights.size) / mean
    value = highest + jnp.log(mean)
    return Bound(value, jnp.where(mean > 0, error, jnp.inf), effective_samples(log_weights))


def effective_samples(log_weights: Array) -> Array:
    """(sum w)^2 / sum w^2 (Kong 1992): so many equal weights would do as well; 0 if none is positive."""
    highest = jnp.max(log_weights)
    weights = jnp.exp(log_weights - jnp.where(jnp.isfinite(highest), highest, 0.0))
    return jnp.sum(weights) ** 2 / jnp.maximum(jnp.sum(weights**2), 1e-30)
