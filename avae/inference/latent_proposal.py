"""Pose and latent together: the normal law of their posterior near a mode, and the law of z given a pose.

    E(alpha, z) = -log p(x | tau_alpha^-1 dec(z)) + |z|^2 / 2

is minimised over both by the Gauss-Newton steps of the search (semi-amortised inference, Kim et al. 2018). They begin
at a mode of J and the encoder's mean there. See docs/theory.md, equations (3a) and (3b); all for one example.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.linalg import solve_triangular

from avae.inference.pose_proposal import Mixture, Modes, distinct_modes, log_parts, width
from avae.model import Params
from avae.networks.vae import Posterior
from avae.objective import predict
from avae.runtime.products import einsum, matmul
from avae.solvers import GaussNewton, comparable
from avae.transforms import Transform
from avae.uncertainty import Pair, joint_loss, without_latent

STEPS = 5  # of Gauss-Newton, on pose and latent together
ENCODER = 0.1  # weight of the encoder's law beside the modes': no z has less than a tenth of its density there
WIDER = 1.1  # standard deviations of z over those of the curvature


class Latents(NamedTuple):
    """For each of K modes, the normal law of z given a pose one step v away: z = mean + slope v + root noise.

    Attributes:
      mean: z at the modes [K, n].
      slope: how it follows the pose [K, n, dof].
      root: of the covariance [K, n, n].
      whiten: the inverse of `root` [K, n, n].
    """

    mean: Array
    slope: Array
    root: Array
    whiten: Array


class Proposal(NamedTuple):
    """The mixture from which poses are drawn, and the law of z near each of its centres."""

    poses: Mixture
    latents: Latents


class Conditional(NamedTuple):
    """r(z | alpha) at one pose: K normals and the encoder's law.

    Attributes:
      mean: of the normals [K, n].
      root: of their covariances [K, n, n].
      whiten: the inverse of `root` [K, n, n].
      encoder: the encoder's law at this pose, the last component.
      log_weight: of the components, they sum to one [K + 1].
    """

    mean: Array
    root: Array
    whiten: Array
    encoder: Posterior
    log_weight: Array


def refine_jointly(params: Params, x: Array, modes: Modes, transform: Transform) -> tuple[Modes, Latents]:
    """Modes of pose and latent together, from those of J; best first, with the law of z near each.

    Their `loss` is E with z integrated out by Laplace's method: -log p(x | alpha) up to one constant. Their covariance
    is that of the pose with z integrated out.
    """
    loss, dof = joint_loss(params, transform), transform.dof

    def improve(alpha: Array) -> tuple[Array, Array, Array, Latents]:
        mu = predict(params, x, transform, alpha).mu
        space: Any = Pair(transform, len(mu))
        start: Any = (alpha, mu)
        found = GaussNewton().refine(loss, x, start, space, STEPS)
        assert found.hessian is not None
        hessian = jnp.where(jnp.isfinite(found.hessian).all(), found.hessian, jnp.eye(space.dof, dtype=mu.dtype))
        precision, slope, whiten = without_latent(hessian, dof)
        root = solve_triangular(whiten, jnp.eye(len(mu), dtype=mu.dtype))
        level = found.loss + jnp.sum(jnp.log(jnp.diag(whiten)))
        covariance = width(precision, transform)
        return found.alpha[0], comparable(level), covariance, Latents(found.alpha[1], slope, root, whiten)

    refined = lax.map(improve, modes.alpha)
    order = jnp.argsort(refined[1])
    alpha, level, covariance, latents = jax.tree.map(lambda part: part[order], refined)
    return Modes(alpha, level, covariance, distinct_modes(alpha, covariance, transform)), latents


def given_pose(proposal: Proposal, alpha: Array, encoder: Posterior, transform: Transform) -> Conditional:
    """r(z | alpha), docs/theory.md (3b), at a pose [size]: a law has its mode's share of the density of poses."""
    poses, latents = proposal
    steps = jax.vmap(lambda centre: transform.step(centre, alpha))(poses.centre)
    share = jax.nn.log_softmax(log_parts(poses, transform, alpha))
    near = share[:-1] + math.log1p(-ENCODER)
    elsewhere = jnp.logaddexp(share[-1], jax.nn.logsumexp(share[:-1]) + math.log(ENCODER))
    mean = latents.mean + einsum("knd,kd->kn", latents.slope, steps)
    return Conditional(mean, WIDER * latents.root, latents.whiten / WIDER, encoder, jnp.append(near, elsewhere))


def draw_latent(law: Conditional, key: Array) -> Array:
    """One z [n]."""
    which, noise_key = jax.random.split(key)
    k, last = jax.random.categorical(which, law.log_weight), len(law.mean)
    noise = jax.random.normal(noise_key, law.encoder.mu.shape, law.encoder.mu.dtype)
    near = jnp.minimum(k, last - 1)
    encoded = law.encoder.mu + jnp.exp(0.5 * law.encoder.logvar) * noise
    return jnp.where(k == last, encoded, law.mean[near] + matmul(law.root[near], noise))


def latent_log_density(law: Conditional, z: Array) -> Array:
    """Log density of the whole mixture at z [n], whichever component drew it."""
    white = einsum("kij,kj->ki", law.whiten, z[None] - law.mean)
    log_det = jnp.log(jnp.diagonal(law.whiten, axis1=1, axis2=2)).sum(axis=1)
    normals = log_det - 0.5 * jnp.sum(white**2 + math.log(2 * math.pi), axis=1)
    parts = law.log_weight + jnp.append(normals, encoder_log_density(law.encoder, z))
    return jax.nn.logsumexp(jnp.where(jnp.isfinite(law.log_weight), parts, -jnp.inf))  # an unused law may be NaN


def encoder_log_density(encoder: Posterior, z: Array) -> Array:
    """Log q(z | x, alpha), a normal law with a diagonal covariance."""
    square = (z - encoder.mu) ** 2 * jnp.exp(-encoder.logvar)
    return -0.5 * jnp.sum(square + encoder.logvar + math.log(2 * math.pi))
