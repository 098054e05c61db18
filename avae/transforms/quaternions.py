"""The rotations of space as unit quaternions, and their algebra; one rotation at a time."""

import dataclasses
import functools
import itertools
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from avae.transforms.factors import Factor


@dataclasses.dataclass(frozen=True)
class Rotations(Factor):
    """SO(3) as unit quaternions [w, x, y, z], w >= 0; tangent steps are rotation vectors in radians."""

    size: ClassVar[int] = 4
    dof: ClassVar[int] = 3
    coordinates: ClassVar[int] = 3
    volume: ClassVar[float] = 8 * math.pi**2

    @property
    def identity(self) -> Array:
        """No rotation."""
        return jnp.array([1.0, 0.0, 0.0, 0.0], jnp.float32)

    @property
    def extent(self) -> Array:
        """Half the side of a cube of the group's volume."""
        return jnp.full(3, self.volume ** (1 / 3) / 2, jnp.float32)

    @property
    def lattice(self) -> Array:
        """The 24 rotations of the cube."""
        return jnp.asarray(_cube_quaternions(), jnp.float32)

    def place(self, u: Array) -> Array:
        """Uniform numbers to a Haar-uniform rotation (Shoemake 1992); Euler angles drawn uniformly would not be."""
        near, far = jnp.sqrt(1 - u[0]), jnp.sqrt(u[0])
        a, b = 2 * math.pi * u[1], 2 * math.pi * u[2]
        return self.project(jnp.stack([far * jnp.cos(b), near * jnp.sin(a), near * jnp.cos(a), far * jnp.sin(b)]))

    def retract(self, alpha: Array, step: Array) -> Array:
        """Alpha times exp(step): the rotation vector `step`, in the frame that alpha has turned."""
        return multiply(alpha, exponential(step))

    def project(self, alpha: Array) -> Array:
        """Unit length, w >= 0."""
        return jnp.where(alpha[0] < 0, -1.0, 1.0) * alpha / jnp.linalg.norm(alpha)

    def inside(self, alpha: Array) -> Array:
        """Of unit length, up to rounding."""
        return jnp.abs(jnp.sum(alpha**2) - 1) < 1e-3

    def difference(self, a: Array, b: Array) -> Array:
        """The rotation vector of a^-1 b; its norm is the angle between them."""
        q = self.project(multiply(conjugate(a), b))
        sine = jnp.linalg.norm(q[1:])
        angle = 2 * jnp.arctan2(sine, q[0])
        return q[1:] * jnp.where(sine > 1e-12, angle / jnp.maximum(sine, 1e-12), 2.0)

    def step(self, a: Array, b: Array) -> Array:
        """The rotation vector of a^-1 b."""
        return self.difference(a, b)

    def reach(self, alpha: Array, step: Array) -> tuple[Array, Array]:
        """The ball of radius pi, an interval at a time: beyond it rotations come again."""
        before = jnp.cumsum(step**2) - step**2
        half = jnp.sqrt(jnp.maximum(math.pi**2 - before, 0.0))
        return -half, half

    def log_measure(self, step: Array) -> Array:
        """Of Haar measure: (sin(t/2) / (t/2))^2 for a rotation vector of length t; docs/theory.md, equation (13)."""
        return 2 * jnp.log(jnp.sinc(jnp.linalg.norm(step) / (2 * math.pi)))

    def relative(self, points: Array) -> Array:
        """Each point times the inverse of the first: a set keeps its distances under a rotation of all of it."""
        return jax.vmap(lambda point: self.project(multiply(point, conjugate(points[0]))))(points)


def exponential(step: Array) -> Array:
    """Rotation vector [3] in radians to a unit quaternion [4]; smooth at zero."""
    square = jnp.sum(step**2)
    small = square < 1e-6
    angle = jnp.sqrt(jnp.where(small, 1.0, square))
    cosine = jnp.where(small, 1 - square / 8, jnp.cos(angle / 2))
    sinc = jnp.where(small, 0.5 - square / 48, jnp.sin(angle / 2) / angle)
    return jnp.concatenate([cosine[None], sinc * step])


def multiply(p: Array, q: Array) -> Array:
    """Hamilton product of two quaternions [4]: first turn by q, then by p."""
    v, w = p[1:], q[1:]
    return jnp.concatenate([(p[0] * q[0] - jnp.sum(v * w))[None], p[0] * w + q[0] * v + jnp.cross(v, w)])


def conjugate(q: Array) -> Array:
    """The inverse of a unit quaternion [4]."""
    return jnp.concatenate([q[:1], -q[1:]])


def rotation_matrix(q: Array) -> Array:
    """The matrix [3, 3] of a unit quaternion [4]."""
    w, x, y, z = q
    return jnp.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


@functools.cache
def _cube_quaternions() -> np.ndarray:
    """The rotations of the cube [24, 4], the identity first: of each pair q, -q of the octahedral group, one."""
    whole = np.array(list(itertools.product((1, 0, -1), repeat=4)))
    whole = whole[np.isin(np.abs(whole).sum(axis=1), (1, 2, 4))]
    leading = whole[np.arange(len(whole)), (whole != 0).argmax(axis=1)]
    front = whole[leading > 0] / np.linalg.norm(whole[leading > 0], axis=1, keepdims=True)
    return front[np.argsort(-front[:, 0], kind="stable")]  # the identity has the largest w
