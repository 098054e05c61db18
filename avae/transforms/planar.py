"""Families of the plane. See `avae.transforms` for the conventions."""

import dataclasses
import math
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from avae.transforms.factors import Box, Circle, Elements
from avae.transforms.family import Transform, affine, upper
from avae.transforms.warp import product


@dataclasses.dataclass(frozen=True)
class Still(Transform):
    """No pose but the identity: a plain VAE is a model of this family, alpha = [0]."""

    dim: ClassVar[int] = 2
    on_grid: ClassVar[bool] = True

    @property
    def factors(self) -> tuple[Any, ...]:
        """One element."""
        return (Elements(1),)

    def matrix(self, alpha: Array) -> Array:
        """The identity."""
        return jnp.eye(self.dim, self.dim + 1, dtype=alpha.dtype)


@dataclasses.dataclass(frozen=True)
class QuarterTurns(Transform):
    """The four rotations by multiples of 90 degrees: alpha = [number of quarter turns]."""

    dim: ClassVar[int] = 2
    on_grid: ClassVar[bool] = True

    @property
    def factors(self) -> tuple[Any, ...]:
        """Four elements."""
        return (Elements(4),)

    def matrix(self, alpha: Array) -> Array:
        """The rotation by alpha[0] quarter turns, exact."""
        turns = jnp.array([[[1, 0], [0, 1]], [[0, -1], [1, 0]], [[-1, 0], [0, -1]], [[0, 1], [-1, 0]]], alpha.dtype)
        return affine(turns[jnp.round(alpha[0]).astype(jnp.int32)])

    def distance(self, a: Array, b: Array) -> Array:
        """Angle between the two rotations, in [0, pi] radians."""
        return jnp.abs(Circle().difference(a * (math.pi / 2), b * (math.pi / 2)))[0]


@dataclasses.dataclass(frozen=True)
class Rotation(Transform):
    """SO(2), or a part of it: alpha = [angle] in radians, canonical in [-pi, pi); uniform prior.

    A `max_angle` of pi means any angle; with a smaller one |angle| <= max_angle, here and in the families below.
    """

    max_angle: float = math.pi

    dim: ClassVar[int] = 2

    @property
    def factors(self) -> tuple[Any, ...]:
        """|angle| <= max_angle."""
        return (_angle(self.max_angle),)

    def matrix(self, alpha: Array) -> Array:
        """[[cos, -sin, 0], [sin, cos, 0]]: counter-clockwise by alpha[0] on the screen."""
        return affine(_turn(alpha[0]))


@dataclasses.dataclass(frozen=True)
class Translation(Transform):
    """Shifts in a box: alpha = [shift x, shift y] in half-widths; the point at `shift` comes to the centre."""

    max_shift: float = 0.2

    dim: ClassVar[int] = 2
    shifts: ClassVar[int] = 2

    @property
    def factors(self) -> tuple[Any, ...]:
        """|shift| <= max_shift."""
        return (Box((self.max_shift,) * 2),)

    def matrix(self, alpha: Array) -> Array:
        """[I | alpha]."""
        return affine(jnp.eye(2, dtype=alpha.dtype), alpha)


@dataclasses.dataclass(frozen=True)
class Rigid(Transform):
    """SE(2) in a box: alpha = [angle, shift x, shift y]; angle in radians, shifts in half-widths.

    The pull map is [R(angle) | shift]: the point at `shift` in the input comes to the centre, turned about itself.
    The prior is uniform over |angle| <= `max_angle` and over |shift| <= `max_shift` on each axis.
    """

    max_shift: float = 0.2
    max_angle: float = math.pi

    dim: ClassVar[int] = 2
    shifts: ClassVar[int] = 2

    @property
    def factors(self) -> tuple[Any, ...]:
        """|angle| <= max_angle, |shift| <= max_shift."""
        return (_angle(self.max_angle), Box((self.max_shift,) * 2))

    def matrix(self, alpha: Array) -> Array:
        """[R(alpha[0]) | alpha[1:]]."""
        return affine(_turn(alpha[0]), alpha[1:])


@dataclasses.dataclass(frozen=True)
class Similarity(Transform):
    """Rotation, isotropic scale and translation: alpha = [angle, log scale, shift x, shift y]."""

    max_shift: float = 0.2
    max_scale: float = 1.5
    max_angle: float = math.pi

    dim: ClassVar[int] = 2
    shifts: ClassVar[int] = 2

    @property
    def factors(self) -> tuple[Any, ...]:
        """|angle| <= max_angle, |log scale| <= log max_scale, |shift| <= max_shift."""
        return (_angle(self.max_angle), Box((math.log(self.max_scale), self.max_shift, self.max_shift)))

    def matrix(self, alpha: Array) -> Array:
        """[exp(alpha[1]) R(alpha[0]) | alpha[2:]]."""
        return affine(jnp.exp(alpha[1]) * _turn(alpha[0]), alpha[2:])


@dataclasses.dataclass(frozen=True)
class Affine(Transform):
    """Rotation, two scales, shear and translation: alpha = [angle, log scale x, log scale y, shear, shift x, shift y].

    `shear` is the tangent of the shear angle, at most `max_shear`; the paper's range is tan(55 degrees) = 1.43.
    """

    max_shift: float = 0.2
    max_scale: float = 1.5
    max_shear: float = 0.5
    max_angle: float = math.pi

    dim: ClassVar[int] = 2
    shifts: ClassVar[int] = 2

    @property
    def factors(self) -> tuple[Any, ...]:
        """|angle| <= max_angle, and a box for the rest."""
        scale = math.log(self.max_scale)
        return (_angle(self.max_angle), Box((scale, scale, self.max_shear, self.max_shift, self.max_shift)))

    def matrix(self, alpha: Array) -> Array:
        """[R(alpha[0]) U(alpha[1:4]) | alpha[4:]]."""
        return affine(product(_turn(alpha[0]), upper(alpha[1:3], alpha[3:4])), alpha[4:])


def _angle(limit: float) -> Circle | Box:
    """The whole circle, or the angles up to `limit` either way."""
    return Circle() if limit >= math.pi else Box((limit,))


def _turn(angle: Array) -> Array:
    c, s = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack([jnp.stack([c, -s]), jnp.stack([s, c])])
