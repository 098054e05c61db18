"""Transform families: what a pose `alpha` means.

A family turns a pose `alpha` [size] into a pull map `matrix` [dim, dim+1] (see `avae.warp`), and knows its own
prior, its own stratified starts and its own geometry. Families are small frozen dataclasses: hashable, so that
they are static under `jit`, and written for one pose; batches are a `vmap`.

Sign of the angle: `warp(x, rotation.matrix(alpha))` turns the picture counter-clockwise by `alpha` radians as
seen on a screen (y down); a quarter turn equals `numpy.rot90`.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from avae.warp import invert


@dataclasses.dataclass(frozen=True)
class Transform:
    """Base of all families: a group (or a box in one) of affine maps, searched by starts and tangent steps.

    Attributes:
      dim: spatial dimension of the data, 2 or 3.
      size: number of entries of `alpha`.
      dof: number of entries of a tangent step (equal to `size` unless `alpha` is redundant).
    """

    dim: ClassVar[int]
    size: ClassVar[int]
    dof: ClassVar[int]

    @property
    def identity(self) -> Array:
        """The pose [size] that leaves the data as it is."""
        return jnp.zeros(self.size)

    def matrix(self, alpha: Array) -> Array:
        """The pull map [dim, dim+1] of tau_alpha."""
        raise NotImplementedError

    def inverse(self, alpha: Array) -> Array:
        """The pull map [dim, dim+1] of tau_alpha^-1."""
        return invert(self.matrix(alpha))

    def sample(self, key: Array) -> Array:
        """One pose [size] drawn from the prior."""
        raise NotImplementedError

    def log_prior(self, alpha: Array) -> Array:
        """Log density of the prior at `alpha`, in nats (per radian and half-width; Haar on rotations)."""
        raise NotImplementedError

    def starts(self, n: int, key: Array | None = None) -> Array:
        """`n` stratified poses [n, size], the identity first: stratum centres, or drawn within them by `key`."""
        raise NotImplementedError

    def cell(self, n: int) -> Array:
        """Half-widths [dof], as tangent steps, of the part of the family that each of `n` starts stands for."""
        raise NotImplementedError

    def retract(self, alpha: Array, step: Array) -> Array:
        """Moves `alpha` [size] along the tangent `step` [dof]; smooth in `step`."""
        return alpha + step

    def project(self, alpha: Array) -> Array:
        """Brings a moved pose back to its canonical representative, and into the prior's support."""
        return alpha

    def distance(self, a: Array, b: Array) -> Array:
        """Geodesic distance of two poses."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Rotation(Transform):
    """SO(2): alpha = [angle] in radians, canonical in [-pi, pi); uniform prior."""

    dim: ClassVar[int] = 2
    size: ClassVar[int] = 1
    dof: ClassVar[int] = 1

    def matrix(self, alpha: Array) -> Array:
        """[[cos, -sin, 0], [sin, cos, 0]]: counter-clockwise by alpha[0] on the screen."""
        return jnp.concatenate([_turn(alpha[0]), jnp.zeros((2, 1), alpha.dtype)], axis=1)

    def sample(self, key: Array) -> Array:
        """A uniform angle [1]."""
        return jax.random.uniform(key, (1,), minval=-math.pi, maxval=math.pi)

    def log_prior(self, alpha: Array) -> Array:
        """-log 2 pi: uniform in radians."""
        return jnp.full_like(alpha[0], -math.log(2 * math.pi))

    def starts(self, n: int, key: Array | None = None) -> Array:
        """`n` angles [n, 1], one in each of `n` equal arcs; the arc around zero gives the identity itself."""
        return _wrap(_strata(n, key) * (2 * math.pi))[:, None]

    def cell(self, n: int) -> Array:
        """Half an arc."""
        return jnp.full(1, math.pi / n)

    def project(self, alpha: Array) -> Array:
        """The angle in [-pi, pi)."""
        return _wrap(alpha)

    def distance(self, a: Array, b: Array) -> Array:
        """Angle between the two rotations, in [0, pi] radians."""
        return jnp.abs(_wrap(a - b))[0]


@dataclasses.dataclass(frozen=True)
class Rigid(Transform):
    """SE(2) in a box: alpha = [angle, shift x, shift y]; angle in radians, shifts in half-widths.

    The pull map is [R(angle) | shift]: the point at `shift` in the input comes to the centre, turned about itself.
    The prior is uniform over all angles and over |shift| <= `max_shift` on each axis.
    """

    max_shift: float = 0.2

    dim: ClassVar[int] = 2
    size: ClassVar[int] = 3
    dof: ClassVar[int] = 3

    def __post_init__(self) -> None:
        if not 0 < self.max_shift <= 2:
            raise ValueError(f"rigid expects 0 < max_shift <= 2 half-widths, got {self.max_shift}")

    def matrix(self, alpha: Array) -> Array:
        """[R(alpha[0]) | alpha[1:]]."""
        return jnp.concatenate([_turn(alpha[0]), alpha[1:, None]], axis=1)

    def sample(self, key: Array) -> Array:
        """A uniform angle and a uniform shift in the box [3]."""
        return jax.random.uniform(key, (3,), minval=-1.0) * jnp.array([math.pi, self.max_shift, self.max_shift])

    def log_prior(self, alpha: Array) -> Array:
        """Uniform density inside the box, -inf outside."""
        inside = jnp.all(jnp.abs(alpha[1:]) <= self.max_shift)
        return jnp.where(inside, -math.log(2 * math.pi) - 2 * math.log(2 * self.max_shift), -jnp.inf)

    def starts(self, n: int, key: Array | None = None) -> Array:
        """`n` poses [n, 3]: angles as `Rotation.starts`, each with the next of a low-discrepancy set of shifts."""
        angle_key, shift_key = (None, None) if key is None else jax.random.split(key)
        angles = Rotation().starts(n, angle_key)
        shifts = spread(n, 2, shift_key) * self.max_shift
        return jnp.concatenate([angles, shifts], axis=1).at[0].set(0.0)

    def cell(self, n: int) -> Array:
        """The half-widths of one cell, were the starts a grid: a cube root of `n` parts along each entry."""
        parts = n ** (1 / 3)
        return jnp.array([math.pi, self.max_shift, self.max_shift]) / parts

    def project(self, alpha: Array) -> Array:
        """The angle in [-pi, pi), the shift in the box."""
        shift = jnp.clip(alpha[1:], -self.max_shift, self.max_shift)
        return jnp.concatenate([_wrap(alpha[:1]), shift])

    def distance(self, a: Array, b: Array) -> Array:
        """sqrt(angle^2 + |shift|^2): how far a point one half-width from the centre moves, to first order."""
        return jnp.sqrt(_wrap(a[0] - b[0]) ** 2 + jnp.sum((a[1:] - b[1:]) ** 2))


def spread(n: int, d: int, key: Array | None = None) -> Array:
    """`n` points [n, d] that fill the box [-1, 1]^d evenly, its centre first; shifted together at random by `key`.

    The additive recurrence of Roberts (2018), whose steps are powers of the d-dimensional golden ratio.
    """
    ratio = 2.0
    for _ in range(30):
        ratio = (1 + ratio) ** (1 / (d + 1))  # the root of r^(d+1) = r + 1
    steps = jnp.array([[ratio ** -(axis + 1) for axis in range(d)]])
    offset = jnp.full((1, d), 0.5) if key is None else jax.random.uniform(key, (1, d))
    return 2 * jnp.mod(jnp.arange(n)[:, None] * steps + offset, 1.0) - 1


FAMILIES: dict[str, type[Transform]] = {"rotation": Rotation, "rigid": Rigid}


def _turn(angle: Array) -> Array:
    c, s = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack([jnp.stack([c, -s]), jnp.stack([s, c])])


def _wrap(angle: Array) -> Array:
    return jnp.mod(angle + math.pi, 2 * math.pi) - math.pi


def _strata(n: int, key: Array | None) -> Array:
    """One point in each of `n` equal parts of the circle [0, 1), as a fraction of a turn; the first is zero."""
    centres = jnp.arange(n) / n
    if key is None:
        return centres
    jitter = jax.random.uniform(key, (n,), minval=-0.5, maxval=0.5) / n
    return centres + jitter.at[0].set(0.0)
