"""What poses are made of: the circle, boxes and finite sets; rotations of space are in `quaternions.py`.

Each factor maps the unit cube onto itself evenly (`place`): its uniform law and its stratified starts follow from that.
It moves along its tangent space (`retract`), so the circle has no seam and SO(3) no gimbal lock. All for one pose.
"""

import dataclasses
import math
from typing import ClassVar

import jax.numpy as jnp
from jax import Array


@dataclasses.dataclass(frozen=True)
class Factor:
    """A part of a pose: `size` numbers with `dof` degrees of freedom, filled evenly by `coordinates` numbers in [0, 1).

    `volume` is in tangent units: radians, and the units of a box. `extent` [dof] is the half-width of the whole factor
    along each tangent direction. `origin` [coordinates] is where the first start is placed. The defaults are those of a
    vector space whose identity is zero.
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
        return -jnp.array(self.half, alpha.dtype) - alpha, jnp.array(self.half, alpha.dtype) - alpha


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
    def origin(self) -> Array:
        """The middle of the identity's part."""
        return jnp.full(1, 0.5 / self.count, jnp.float32)

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
        return jnp.clip(jnp.floor(u * self.count), 0, self.count - 1)

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
