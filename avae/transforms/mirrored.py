"""Mirror images: a factor of two elements in front of any family. See `avae.transforms` for the conventions."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from avae.runtime.mistake import Mistake
from avae.transforms.factors import Elements
from avae.transforms.family import Transform


@dataclasses.dataclass(frozen=True)
class Mirrored(Transform):
    """A family and its mirror images: alpha = [mirrored, *pose of the family], mirrored 0 or 1.

    `Mirrored(Rotation())` is O(2), `Mirrored(Rotation3D())` is O(3), `Mirrored(QuarterTurns())` has eight elements. The
    mirror comes last: `warp(x, matrix([1, *a]))` is `warp(x, family.matrix(a))` with left and right exchanged (x, the
    last axis of space). So angles and shifts mean what they mean in the family. In the prior each hand has probability
    1/2; no step leads from one to the other, so that their distance is infinite.

    Attributes:
      family: the poses that are mirrored.

    Raises:
      Mistake: if `family` is not a family, or has mirror images already.
    """

    family: Transform

    def __post_init__(self) -> None:
        if not isinstance(self.family, Transform):
            raise Mistake(f"mirrored expects a family such as avae.Rotation(), got {self.family!r}")
        if isinstance(self.family, Mirrored):
            raise Mistake(f"mirrored expects a family without mirror images, got {self.family!r}")

    @property
    def dim(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of the family."""
        return self.family.dim

    @property
    def on_grid(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of the family: a mirror takes pixels to pixels."""
        return self.family.on_grid

    @property
    def shifts(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of the family: the last column of the pull map is its own."""
        return self.family.shifts

    @property
    def spacing(self) -> tuple[float, ...] | None:
        """That of the family, if it has one: a mirror does not change it."""
        return getattr(self.family, "spacing", None)

    @property
    def factors(self) -> tuple[Any, ...]:
        """Two elements, and the factors of the family."""
        return (Elements(2), *self.family.factors)

    def matrix(self, alpha: Array) -> Array:
        """M(alpha[1:]) diag(-1, 1(, 1)) where mirrored: its first column has the other sign."""
        return self.family.matrix(alpha[1:]) * _signs(alpha, self.dim + 1)[None]

    def inverse(self, alpha: Array) -> Array:
        """Diag(-1, 1(, 1)) M(alpha[1:])^-1 where mirrored: the inverse's first row has the other sign."""
        return self.family.inverse(alpha[1:]) * _signs(alpha, self.dim)[:, None]

    def mirrored(self, alpha: Array) -> Array:
        """Whether alpha[0] is 1."""
        return self.family.mirrored(alpha[1:]) ^ (alpha[0] > 0.5)

    def starts(self, n: int, key: Array | None = None) -> Array:
        """`n` poses [n, size], half of them mirrored: the family's own strata for each hand, the identity first.

        With a key each hand is drawn by itself, but for the identity and its mirror image.
        """
        keys = (None, None) if key is None else jax.random.split(key)
        hands = [self.family.starts(_half(n), key) for key in keys]
        flagged = [jnp.pad(hand, ((0, 0), (1, 0)), constant_values=flag) for flag, hand in enumerate(hands)]
        return jnp.concatenate(flagged)[: n if self.dof else None]

    def cell(self, n: int, shifted: bool = True) -> Array:
        """Half-widths [dof] of the part of the family that each of `n` starts stands for, half of them of each hand."""
        return self.family.cell(_half(n), shifted)

    def distance(self, a: Array, b: Array) -> Array:
        """That of the family; infinite between mirror images."""
        return jnp.where(a[0] == b[0], self.family.distance(a[1:], b[1:]), jnp.inf)


def _signs(alpha: Array, n: int) -> Array:
    """Minus one for x where the pose is mirrored, one for everything else [n]."""
    return jnp.where((jnp.arange(n) == 0) & (alpha[0] > 0.5), -1, 1).astype(alpha.dtype)


def _half(n: int) -> int:
    """Of `n` starts, those of one hand; at least one."""
    return (n + 1) // 2
