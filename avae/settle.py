"""The pose at which J has its minimum once its ripple is smoothed away: a parabola through many poses around the best.

A pose resamples the image, z follows the resampled noise, and J ripples by a nat or more within a pixel. Under noise
the lowest ripple is a poorer estimate of the pose than the minimum of the smooth curve beneath (docs/theory.md).
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from avae.runtime.parts import in_turn
from avae.runtime.products import matmul
from avae.solvers import Loss
from avae.transforms import Transform, spread

TURN, SHIFT = 2.5, 1.0  # pixels at the rim, pixels: half-widths of what the parabola is fitted to
NATS = 20.0  # a pose counts exp(-(J - least) / NATS) times in the fit
RISE = 15.0  # nats by which J may be higher than at the best pose: more is no ripple


def settle(loss: Loss, x: Any, alpha: Array, value: Array, family: Transform, n: int) -> tuple[Array, Array, Array]:
    """Moves a pose of least loss to the minimum of the parabola that fits the loss around it, for one example.

    The pose stays where it is in three cases. Too few poses count for a fit, because the loss is sharp enough without.
    The parabola has no minimum among them. Or the loss at that minimum is higher by more than a ripple.

    Args:
      loss: J.
      x: the example, an image.
      alpha: the pose [size].
      value: its loss.
      family: its family.
      n: how many poses around it are tried.

    Returns:
      The pose, its loss, and the covariance [dof, dof] that the parabola says, infinite where the pose stays.
    """
    dof = family.dof
    of_shift = np.arange(dof) >= dof - family.shifts
    half = jnp.asarray(np.where(of_shift, SHIFT, TURN) * 2 / min(x.shape[:-1]), alpha.dtype)
    points = spread(n, dof).astype(alpha.dtype)
    rows, columns = np.triu_indices(dof)
    design = jnp.concatenate([jnp.ones((n, 1), points.dtype), points, points[:, rows] * points[:, columns]], axis=1)
    losses = in_turn(lambda step: loss(x, family.retract(alpha, step)), points * half[None], x)
    above = jnp.where(jnp.isfinite(losses), losses, jnp.inf) - value
    weight = jnp.exp(-jnp.maximum(above, 0.0) / NATS) + 1e-3
    weight = jnp.where(jnp.isfinite(above), weight, 0.0)
    weighted = weight[:, None] * design
    normal = matmul(weighted.T, design)
    ridge = 1e-5 * jnp.trace(normal) / len(normal) * jnp.eye(len(normal), dtype=normal.dtype)
    fitted = jnp.linalg.solve(normal + ridge, matmul(weighted.T, jnp.where(jnp.isfinite(above), above, 0.0)))
    slope, upper = fitted[1 : dof + 1], jnp.zeros((dof, dof), fitted.dtype).at[rows, columns].set(fitted[dof + 1 :])
    curvature = upper + upper.T
    step = -jnp.linalg.solve(curvature + 1e-6 * jnp.eye(dof, dtype=curvature.dtype), slope)
    moved = family.project(family.retract(alpha, step * half))
    there = loss(x, moved)
    enough = jnp.sum(weight) ** 2 > 2 * design.shape[1] * jnp.sum(weight**2)
    bowl = jnp.linalg.eigvalsh(curvature)[0] > 0.1  # nats over half of the range
    good = enough & bowl & jnp.all(jnp.abs(step) <= 1) & (there - value < RISE)
    covariance = jnp.linalg.inv(curvature + 1e-6 * jnp.eye(dof, dtype=curvature.dtype)) * (half[:, None] * half[None])
    return jnp.where(good, moved, alpha), jnp.where(good, there, value), jnp.where(good, covariance, jnp.inf)


def settled(loss: Loss, x: Any, found: Any, family: Transform, n: int) -> Any:
    """An `avae.align.Found` for one example, its pose settled among `n` poses; 0 leaves it."""
    if not (n and family.dof):
        return found
    alpha, value, covariance = settle(loss, x, found.alpha, found.loss, family, n)
    return found._replace(alpha=alpha, loss=value, prediction=None, covariance=covariance)


def least(dof: int) -> int:
    """How many poses a fit needs: two for each number of the parabola."""
    return 2 * (1 + dof + dof * (dof + 1) // 2)
