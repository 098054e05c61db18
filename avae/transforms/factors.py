"""What poses are made of: the circle, the rotations of space, boxes, and finite sets; one pose at a time.

Each factor maps the unit cube onto itself evenly (`place`), which gives its uniform law and its stratified starts, and
moves along its tangent space (`retract`), so that the circle has no seam and SO(3) no gimbal lock.
"""

import dataclasses
import functools
import itertools
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


@dataclasses.dataclass(frozen=True)
class Factor:
    """A part of a pose: `size` numbers with `dof` degrees of freedom, filled evenly by `coordinates` numbers in [0, 1).

    `volume` is measured in tangent units (radians, and whatever a box is measured in); `extent` [dof] is the half-width
    of the whole factor along each tangent direction; `origin` [coordinates] is where the first start is placed. What a
    factor does not say otherwise is that of a vector space whose identity is zero.
    """

    @property
    def size(self) -> int:
        """Numbers that make a pose."""
        raise NotImplementedError

    @property
    def dof(self) -> int:
        """Numbers that make a tangent step."""
        return self.size

    @property
    def coordinates(self) -> int:
        """Numbers of the unit cube that fill the factor evenly."""
        return self.size

    @property
    def volume(self) -> float:
        """The prior is one over it."""
        raise NotImplementedError

    @property
    def extent(self) -> Array:
        """Half-widths [dof]."""
        raise NotImplementedError

    @property
    def identity(self) -> Array:
        """The pose [size] that changes nothing."""
        return jnp.zeros(self.size, jnp.float32)

    @property
    def origin(self) -> Array:
        """The point [coordinates] of the unit cube at which the identity is placed."""
        return jnp.zeros(self.coordinates, jnp.float32)

    @property
    def lattice(self) -> Array:
        """A finite subgroup [n, size], the identity first, from which a search may start."""
        return self.identity[None]

    def place(self, u: Array) -> Array:
        """A point [size] for u [coordinates] in the unit cube; uniform u give the uniform (Haar) law."""
        raise NotImplementedError

    def retract(self, alpha: Array, step: Array) -> Array:
        """Moves alpha [size] along the tangent step [dof]; `project` brings it home."""
        return alpha + step

    def project(self, alpha: Array) -> Array:
        """The canonical representative of a moved point, inside the factor's range."""
        raise NotImplementedError

    def inside(self, alpha: Array) -> Array:
        """Whether alpha [size] is in the factor's range."""
        raise NotImplementedError

    def difference(self, a: Array, b: Array) -> Array:
        """A tangent vector whose norm is the geodesic distance of a and b."""
        return a - b

    def step(self, a: Array, b: Array) -> Array:
        """The tangent step [dof] that leads from a to b: the inverse of `retract`."""
        return b - a

    def connected(self, a: Array, b: Array) -> Array:
        """Whether any step leads from a to b."""
        return jnp.array(True)

    def reach(self, alpha: Array, step: Array) -> tuple[Array, Array]:
        """Bounds [dof] of each entry of a step from alpha, which may depend on the entries before it.

        The steps within them lead to every pose that is connected with alpha, almost all of them once.
        """
        return jnp.full(self.dof, -jnp.inf, alpha.dtype), jnp.full(self.dof, jnp.inf, alpha.dtype)

    def log_measure(self, step: Array) -> Array:
        """Log of the volume that a unit of tangent volume covers at the end of `step`; 0 where space is flat."""
        return jnp.zeros((), step.dtype)

    def relative(self, points: Array) -> Array:
        """Points [n, size] moved together so that the first is the identity; most place it there anyhow."""
        return points


@dataclasses.dataclass(frozen=True)
class Circle(Factor):
    """An angle in radians, canonical in [-pi, pi)."""

    size: ClassVar[int] = 1
    volume: ClassVar[float] = 2 * math.pi

    @property
    def extent(self) -> Array:
        """Half a turn."""
        return jnp.full(1, math.pi, jnp.float32)

    @property
    def lattice(self) -> Array:
        """The four quarter turns."""
        return self.project(jnp.arange(4, dtype=jnp.float32)[:, None] * (math.pi / 2))

    def place(self, u: Array) -> Array:
        """So many turns."""
        return self.project(u * (2 * math.pi))

    def project(self, alpha: Array) -> Array:
        """The angle in [-pi, pi)."""
        return jnp.mod(alpha + math.pi, 2 * math.pi) - math.pi

    def inside(self, alpha: Array) -> Array:
        """Always."""
        return jnp.isfinite(alpha).all()

    def difference(self, a: Array, b: Array) -> Array:
        """The smaller angle between them, signed."""
        return self.project(a - b)

    def step(self, a: Array, b: Array) -> Array:
        """The shorter way."""
        return self.project(b - a)

    def reach(self, alpha: Array, step: Array) -> tuple[Array, Array]:
        """Half a turn either way."""
        return jnp.full(1, -math.pi, alpha.dtype), jnp.full(1, math.pi, alpha.dtype)


@dataclasses.dataclass(frozen=True)
class Box(Factor):
    """Numbers between -half and +half, one half-width per entry."""

    half: tuple[float, ...]

    @property
    def size(self) -> int:
        """Number of entries."""
        return len(self.half)

    @property
    def volume(self) -> float:
        """Product of the widths."""
        return math.prod(2 * half for half in self.half)

    @property
    def origin(self) -> Array:
        """The centre is at u = 1/2."""
        return jnp.full(self.size, 0.5, jnp.float32)

    @property
    def extent(self) -> Array:
        """The half-widths."""
        return jnp.array(self.half, jnp.float32)

    def place(self, u: Array) -> Array:
        """From one side to the other."""
        return (2 * u - 1) * jnp.array(self.half, u.dtype)

    def project(self, alpha: Array) -> Array:
        """The nearest point of the box."""
        half = jnp.array(self.half, alpha.dtype)
        return jnp.clip(alpha, -half, half)

    def inside(self, alpha: Array) -> Array:
        """Within the box, up to rounding."""
        return jnp.all(jnp.abs(alpha) <= jnp.array(self.half, alpha.dtype) * (1 + 1e-6))

    def reach(self, alpha: Array, step: Array) -> tuple[Array, Array]:
        """From one side to the other."""
        half = jnp.array(self.half, alpha.dtype)
        return -half - alpha, half - alpha


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


@dataclasses.dataclass(frozen=True)
class Elements(Factor):
    """A finite set of `count` poses, numbered from 0, the identity; every pose is tried and none is refined."""

    count: int

    size: ClassVar[int] = 1
    dof: ClassVar[int] = 0
    coordinates: ClassVar[int] = 1

    @property
    def volume(self) -> float:
        """Their number: the prior is a probability."""
        return self.count

    @property
    def lattice(self) -> Array:
        """All of them."""
        return jnp.arange(self.count, dtype=jnp.float32)[:, None]

    @property
    def extent(self) -> Array:
        """No direction to go."""
        return jnp.zeros(0, jnp.float32)

    def place(self, u: Array) -> Array:
        """Equal parts of the unit interval."""
        return jnp.clip(jnp.floor(u * self.count + 1e-4), 0, self.count - 1)

    def retract(self, alpha: Array, step: Array) -> Array:
        """Stays."""
        return alpha

    def project(self, alpha: Array) -> Array:
        """The nearest number."""
        return jnp.clip(jnp.round(alpha), 0, self.count - 1)

    def inside(self, alpha: Array) -> Array:
        """One of the numbers."""
        return jnp.all((alpha == jnp.round(alpha)) & (alpha >= 0) & (alpha < self.count))

    def difference(self, a: Array, b: Array) -> Array:
        """Zero or one: families that know better override `distance`."""
        return (a != b).astype(a.dtype)

    def step(self, a: Array, b: Array) -> Array:
        """None to take."""
        return jnp.zeros(0, a.dtype)

    def connected(self, a: Array, b: Array) -> Array:
        """Only with itself."""
        return jnp.all(a == b)


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
