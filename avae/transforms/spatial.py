"""Families of space. See `avae.transforms` for the conventions."""

import dataclasses
import functools
import itertools
import math
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array

from avae.runtime.mistake import Mistake
from avae.transforms.factors import Box, Elements
from avae.transforms.family import Transform, affine, upper
from avae.transforms.planar import Still
from avae.transforms.quaternions import Rotations, rotation_matrix
from avae.transforms.warp import product


@dataclasses.dataclass(frozen=True)
class Still3D(Still):
    """The same for volumes."""

    dim: ClassVar[int] = 3


@dataclasses.dataclass(frozen=True)
class CubeRotations(Transform):
    """The 24 rotations of the cube onto itself: alpha = [number]."""

    dim: ClassVar[int] = 3
    on_grid: ClassVar[bool] = True

    @property
    def factors(self) -> tuple[Any, ...]:
        """Twenty-four elements."""
        return (Elements(24),)

    def matrix(self, alpha: Array) -> Array:
        """The rotation of number alpha[0], exact."""
        return affine(jnp.asarray(_cube_matrices(), alpha.dtype)[jnp.round(alpha[0]).astype(jnp.int32)])

    def distance(self, a: Array, b: Array) -> Array:
        """Angle between the two rotations, in [0, pi] radians."""
        trace = jnp.sum(self.matrix(a)[:, :3] * self.matrix(b)[:, :3])
        return jnp.arccos(jnp.clip((trace - 1) / 2, -1, 1))


@dataclasses.dataclass(frozen=True)
class Spatial(Transform):
    """Families with any rotation: of space, whatever the lengths of a voxel.

    Attributes:
      spacing: lengths of a voxel along x, y, z, in any unit: turns, scales and shears are in that unit: the pull map
        is S^-1 A S with S their diagonal. Shifts stay in half-widths, counted in voxels.
    """

    spacing: tuple[float, float, float] = dataclasses.field(default=(1.0, 1.0, 1.0), kw_only=True)

    def __post_init__(self) -> None:
        """Raises Mistake for lengths that are not three, finite and above 0, and as the base."""
        super().__post_init__()
        lengths = np.asarray(self.spacing)
        if lengths.shape != (3,) or lengths.dtype.kind not in "iuf" or not (np.isfinite(lengths) & (lengths > 0)).all():
            raise Mistake(f"spacing: expected three finite lengths above 0, along x, y, z, got {self.spacing!r}")
        object.__setattr__(self, "spacing", tuple(float(length) for length in self.spacing))

    def _pull(self, linear: Array, shift: Array | None = None) -> Array:
        """The pull map [S^-1 linear S | shift]."""
        lengths = np.array(self.spacing)
        ratios = lengths[None, :] / lengths[:, None]
        return affine(linear if (ratios == 1).all() else linear * jnp.asarray(ratios, linear.dtype), shift)


@dataclasses.dataclass(frozen=True)
class Rotation3D(Spatial):
    """SO(3): alpha = unit quaternion [w, x, y, z], w >= 0; Haar prior; steps are rotation vectors in radians."""

    dim: ClassVar[int] = 3

    @property
    def factors(self) -> tuple[Any, ...]:
        """Any rotation."""
        return (Rotations(),)

    def matrix(self, alpha: Array) -> Array:
        """[R(alpha) | 0]."""
        return self._pull(rotation_matrix(alpha))

    @property
    def _steps(self) -> Array:
        """Those of the super-Fibonacci spiral (Alexa 2022), which cover SO(3) better than the general recurrence."""
        return jnp.array([2**-0.5, 1 / 1.533751168755204288], jnp.float32)


@dataclasses.dataclass(frozen=True)
class Rigid3D(Spatial):
    """SE(3) in a box: alpha = [quaternion, shift x, y, z]; shifts in half-widths."""

    max_shift: float = 0.2

    dim: ClassVar[int] = 3
    shifts: ClassVar[int] = 3

    @property
    def factors(self) -> tuple[Any, ...]:
        """Any rotation, |shift| <= max_shift."""
        return (Rotations(), Box((self.max_shift,) * 3))

    def matrix(self, alpha: Array) -> Array:
        """[R(alpha[:4]) | alpha[4:]]."""
        return self._pull(rotation_matrix(alpha[:4]), alpha[4:])


@dataclasses.dataclass(frozen=True)
class Similarity3D(Spatial):
    """Rotation, isotropic scale and translation of space: alpha = [quaternion, log scale, shift x, y, z]."""

    max_shift: float = 0.2
    max_scale: float = 1.5

    dim: ClassVar[int] = 3
    shifts: ClassVar[int] = 3

    @property
    def factors(self) -> tuple[Any, ...]:
        """Any rotation, and a box for the rest."""
        return (Rotations(), Box((math.log(self.max_scale), *(self.max_shift,) * 3)))

    def matrix(self, alpha: Array) -> Array:
        """[exp(alpha[4]) R(alpha[:4]) | alpha[5:]]."""
        return self._pull(jnp.exp(alpha[4]) * rotation_matrix(alpha[:4]), alpha[5:])


@dataclasses.dataclass(frozen=True)
class Affine3D(Spatial):
    """All of it in space: alpha = [quaternion, log scale x, y, z, shear xy, xz, yz, shift x, y, z]."""

    max_shift: float = 0.2
    max_scale: float = 1.5
    max_shear: float = 0.5

    dim: ClassVar[int] = 3
    shifts: ClassVar[int] = 3

    @property
    def factors(self) -> tuple[Any, ...]:
        """Any rotation, and a box for the rest."""
        half = (math.log(self.max_scale),) * 3 + (self.max_shear,) * 3 + (self.max_shift,) * 3
        return (Rotations(), Box(half))

    def matrix(self, alpha: Array) -> Array:
        """[R(alpha[:4]) U(alpha[4:10]) | alpha[10:]]."""
        return self._pull(product(rotation_matrix(alpha[:4]), upper(alpha[4:7], alpha[7:10])), alpha[10:])


@functools.cache
def _cube_matrices() -> np.ndarray:
    """The 24 signed permutation matrices [24, 3, 3] of determinant one, the identity first."""
    signed = [
        np.eye(3)[list(order)] * np.array(signs)[:, None]
        for order in itertools.permutations(range(3))
        for signs in itertools.product((1, -1), repeat=3)
    ]
    return np.stack([matrix for matrix in signed if np.linalg.det(matrix) > 0])
