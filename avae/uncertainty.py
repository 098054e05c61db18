"""How far a pose may be off: pose and latent together, near one mode, and the pose's share of it.

    E(alpha, z) = -log p(x | tau_alpha^-1 dec(z)) + |z|^2 / 2

In the curvature of J in alpha, z follows the pose as the encoder maps it. In the curvature of E, z is free: where a
change of the latent can undo a rotation, the pose is as uncertain as that latent.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import solve_triangular

from avae.model import Params
from avae.runtime.products import matmul
from avae.solvers import CompositeLoss, standard_deviation
from avae.transforms import Transform


@dataclasses.dataclass(frozen=True)
class Pair:
    """A pose with a latent of `n_latent` numbers, as a space that solvers move in; its points are (alpha, z)."""

    transform: Transform
    n_latent: int

    @property
    def dof(self) -> int:
        """Those of the pose, then those of the latent."""
        return self.transform.dof + self.n_latent

    def retract(self, point: tuple[Array, Array], step: Array) -> tuple[Array, Array]:
        """The pose along its tangent step, the latent along a straight line."""
        alpha, z = point
        return self.transform.retract(alpha, step[: self.transform.dof]), z + step[self.transform.dof :]

    def project(self, point: tuple[Array, Array]) -> tuple[Array, Array]:
        """Only poses have a range."""
        return self.transform.project(point[0]), point[1]


def joint_loss(params: Params, transform: Transform) -> CompositeLoss:
    """E(alpha, z) of points (alpha, z), split so that Gauss-Newton can use it."""
    model, weights = params.model, params.weights

    def posed(x: Array, point: Any) -> tuple[Array, Array]:
        alpha, z = point
        return model.from_canonical(model.decode(weights, z), transform, alpha, x.shape[:-1]), z

    return CompositeLoss(
        predict=posed,
        score=lambda x, u: 0.5 * jnp.sum(u[1] ** 2) - model.log_prob(weights, x, u[0]),
        curvature=lambda x, u: (model.fisher(weights, x, u[0]), jnp.ones_like(u[1])),
    )


def without_latent(hessian: Array, dof: int) -> tuple[Array, Array, Array]:
    """What a joint curvature [dof + n, dof + n] says of the pose alone, z integrated out; all for one example.

    Returns:
      The curvature of the pose [dof, dof] (a Schur complement); the change of z with the pose [n, dof]; the upper
      root R [n, n] of the curvature R' R of z.
    """
    own, cross, of_z = hessian[:dof, :dof], hessian[dof:, :dof], hessian[dof:, dof:]
    root = jnp.linalg.cholesky(of_z).T  # of_z is at least the identity, the prior's
    half = solve_triangular(root.T, cross, lower=True)
    return own - matmul(half.T, half), -solve_triangular(root, half), root


def pose_std(params: Params, x: Array, transform: Transform, alpha: Array, z: Array) -> Array:
    """Standard deviation [dof] of the pose of one image x near alpha, whatever z; infinite for a blank image.

    Derivatives with respect to the pose are central differences over one pixel at the rim. Exact derivatives of a
    bilinear sampler follow the decoder's pixel noise, and would make poses more certain than the noise of x allows.
    """
    loss, pixel = joint_loss(params, transform), 2 / min(x.shape[:-1])

    def shown(alpha: Array, z: Array) -> Array:
        point: Any = (alpha, z)
        return loss.predict(x, point)[0].ravel()

    def slope(direction: Array) -> Array:
        ahead, behind = (shown(transform.retract(alpha, step * direction), z) for step in (pixel, -pixel))
        return (ahead - behind) / (2 * pixel)

    by_pose = jax.vmap(slope)(jnp.eye(transform.dof, dtype=alpha.dtype))
    slopes = jnp.concatenate([by_pose, jax.jacfwd(shown, argnums=1)(alpha, z).T])
    weight = params.model.fisher(params.weights, x, shown(alpha, z).reshape(x.shape)).ravel()
    prior = jnp.diag(jnp.where(jnp.arange(len(slopes)) < transform.dof, 0.0, 1.0).astype(slopes.dtype))
    precision, _, _ = without_latent(matmul(slopes * weight[None], slopes.T) + prior, transform.dof)
    pixels, counts = params.model.observed(x)
    there = True if counts is None else jnp.broadcast_to(counts > 0, x.shape)
    blank = jnp.max(pixels, where=there, initial=-jnp.inf) <= jnp.min(pixels, where=there, initial=jnp.inf)
    return jnp.where(blank, jnp.inf, standard_deviation(precision, transform.cell(1)))
