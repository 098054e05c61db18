"""What all families share: everything that follows from the factors of a pose. See `avae.transforms`."""

import dataclasses
import functools
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from avae.runtime.mistake import Mistake
from avae.transforms.strata import recurrence, strata
from avae.transforms.warp import invert

RANGES = {
    "max_angle": (0, math.pi, "radians"),
    "max_shift": (0, 2, "half-widths"),
    "max_scale": (1, 8, "times"),
    "max_shear": (0, 4, "tangents"),
}
CHECKED = 16  # starts of a family whose matrices are looked at


@dataclasses.dataclass(frozen=True)
class Transform:
    """Base of all families: a product of factors, and the matrix of its poses.

    A family of your own may have a class attribute `search`, the `avae.Search` with which it is searched by default.

    Attributes:
      dim: spatial dimension of the data, 2 or 3.
      on_grid: whether every pose takes pixels to pixels (quarter turns do), so that nothing is interpolated.
      shifts: how many of the last entries of alpha, `dim` or 0, are the last column of the pull map; of a box then.
    """

    dim: ClassVar[int]
    on_grid: ClassVar[bool] = False
    shifts: ClassVar[int] = 0

    def __post_init__(self) -> None:
        """Raises Mistake for a range that is empty, or that no pose of real data needs."""
        for name in (field.name for field in dataclasses.fields(self) if field.name in RANGES):
            low, high, unit = RANGES[name]
            value = getattr(self, name)
            numbers = np.asarray(value)
            if numbers.dtype.kind not in "iuf" or not np.all((low < numbers) & (numbers <= high)):
                family = type(self).__name__.lower()
                raise Mistake(f"{family} expects {low} < {name} <= {high} {unit}, got {value!r}")

    @property
    def factors(self) -> tuple[Any, ...]:
        """What a pose is made of, in the order of its entries: each an `avae.transforms.factors.Factor`."""
        raise NotImplementedError

    def matrix(self, alpha: Array) -> Array:
        """The pull map [dim, dim+1] of tau_alpha."""
        raise NotImplementedError

    def inverse(self, alpha: Array) -> Array:
        """The pull map [dim, dim+1] of tau_alpha^-1."""
        return invert(self.matrix(alpha))

    def mirrored(self, alpha: Array) -> Array:
        """Whether the pose exchanges left and right: never, but in `avae.Mirrored`."""
        return jnp.array(False)

    @property
    def size(self) -> int:
        """Number of entries of `alpha`."""
        return sum(factor.size for factor in self.factors)

    @property
    def dof(self) -> int:
        """Number of entries of a tangent step; 0 for a finite family, which is tried exhaustively."""
        return sum(factor.dof for factor in self.factors)

    @property
    def identity(self) -> Array:
        """The pose [size] that leaves the data as it is."""
        return jnp.concatenate([factor.identity for factor in self.factors])

    def sample(self, key: Array) -> Array:
        """One pose [size] drawn from the prior: uniform on boxes, Haar on rotations."""
        return self._place(jax.random.uniform(key, (self._coordinates,), jnp.float32))

    def log_prior(self, alpha: Array) -> Array:
        """Log density of the prior at `alpha`, in nats; -inf outside.

        Per radian, per half-width, per unit of log scale and of shear; for a finite family, the log of a probability.
        """
        inside = jnp.stack([factor.inside(part) for factor, part in self._parts(alpha)]).all()
        density = -sum(math.log(factor.volume) for factor in self.factors)
        return jnp.where(inside, jnp.asarray(density, alpha.dtype), -jnp.inf)

    def starts(self, n: int, key: Array | None = None) -> Array:
        """`n` stratified poses [n, size], the identity first.

        The first coordinate takes `n` equal strata, the others an additive recurrence. With a key, each pose but the
        identity is drawn anew within its stratum, and the recurrence starts elsewhere. A finite family gives all of its
        elements instead.
        """
        if self.dof == 0:
            return self.lattice
        u = jnp.concatenate([factor.origin for factor in self.factors])[None] + strata(n, self._steps)
        if key is not None:
            within = jax.random.uniform(key, (n, 1), jnp.float32, -0.5, 0.5) / n
            together = jax.random.uniform(jax.random.fold_in(key, 1), (1, self._coordinates - 1), jnp.float32)
            u = u + jnp.concatenate([within, jnp.tile(together, (n, 1))], axis=1)
        u = jnp.mod(u, 1.0)
        columns = np.cumsum([factor.coordinates for factor in self.factors])[:-1]
        placed = [
            factor.relative(jax.vmap(factor.place)(part))
            for factor, part in zip(self.factors, jnp.split(u, columns, axis=1), strict=True)
        ]
        return jnp.concatenate(placed, axis=1).at[0].set(self.identity)

    @property
    def lattice(self) -> Array:
        """The finite subgroup [n, size] of the family's rotations, the identity first; a finite family is its own."""
        grids = [factor.lattice for factor in self.factors]
        index = np.indices([len(grid) for grid in grids]).reshape(len(grids), -1)
        return jnp.concatenate([grid[i] for grid, i in zip(grids, index, strict=True)], axis=1)

    def cell(self, n: int, shifted: bool = True) -> Array:
        """Half-widths [dof], as tangent steps, of the part of the family that each of `n` starts stands for.

        Not `shifted`: where there is more to the family than shifts the starts divide that alone, and the cell has no
        width along the shifts.
        """
        extent, divided = jnp.concatenate([factor.extent for factor in self.factors]), self.dof
        if not shifted and self.shifts < self.dof:
            divided -= self.shifts
        return jnp.where(jnp.arange(self.dof) < divided, extent, 0) / n ** (1 / max(1, divided))

    @property
    def farthest(self) -> float:
        """The largest shift along an axis, in half-widths, of a family that has shifts."""
        return self.factors[-1].half[-1]

    def centred(self, alpha: Array) -> Array:
        """The pose [size] without its shift."""
        return jnp.where(jnp.arange(self.size) < self.size - self.shifts, alpha, 0)

    def retract(self, alpha: Array, step: Array) -> Array:
        """Moves `alpha` [size] along the tangent `step` [dof]; smooth in `step`. A pose keeps its float type."""
        moved = [factor.retract(part, move) for factor, part, move in self._moves(alpha, step.astype(alpha.dtype))]
        return jnp.concatenate(moved)

    def step(self, a: Array, b: Array) -> Array:
        """The tangent step [dof] from a to b [size]: the inverse of `retract`, the shorter way round."""
        pairs = zip(self._parts(a), self._parts(b), strict=True)
        return jnp.concatenate([factor.step(part, other) for (factor, part), (_, other) in pairs])

    def connected(self, a: Array, b: Array) -> Array:
        """Whether any step leads from a to b: not between elements of a finite set."""
        pairs = zip(self._parts(a), self._parts(b), strict=True)
        return jnp.stack([factor.connected(part, other) for (factor, part), (_, other) in pairs]).all()

    def reach(self, alpha: Array, step: Array) -> tuple[Array, Array]:
        """Bounds, low and high [dof], of each entry of a step from `alpha`, given the entries of `step` before it."""
        ends = [factor.reach(part, move) for factor, part, move in self._moves(alpha, step)]
        return jnp.concatenate([low for low, _ in ends]), jnp.concatenate([high for _, high in ends])

    def log_measure(self, step: Array) -> Array:
        """Log of the prior's volume per unit of tangent volume at the end of `step` [dof]."""
        moves = self._moves(self.identity, step)
        return jnp.sum(jnp.stack([factor.log_measure(move) for factor, _, move in moves]))

    def project(self, alpha: Array) -> Array:
        """Brings a moved pose back to its canonical representative, and into the prior's support."""
        return jnp.concatenate([factor.project(part) for factor, part in self._parts(alpha)])

    def distance(self, a: Array, b: Array) -> Array:
        """Length of the step from a to b: radians, half-widths, log scales and shears as legs of one triangle."""
        pairs = zip(self._parts(a), self._parts(b), strict=True)
        legs = jnp.concatenate([factor.difference(part, other) for (factor, part), (_, other) in pairs])
        return jnp.sqrt(jnp.sum(legs**2))

    @property
    def _steps(self) -> Array:
        """Steps of the recurrence along every coordinate but the first."""
        return recurrence(self._coordinates - 1)

    @property
    def _coordinates(self) -> int:
        return sum(factor.coordinates for factor in self.factors)

    def _parts(self, alpha: Array) -> list[tuple[Any, Array]]:
        """Each factor with its entries of `alpha`."""
        ends = np.cumsum([factor.size for factor in self.factors])
        return [
            (factor, alpha[end - factor.size : end]) for factor, end in zip(self.factors, ends.tolist(), strict=True)
        ]

    def _moves(self, alpha: Array, step: Array) -> list[tuple[Any, Array, Array]]:
        """Each factor with its entries of `alpha` and of the tangent step."""
        steps = jnp.split(step, np.cumsum([factor.dof for factor in self.factors])[:-1])
        return [(factor, part, move) for (factor, part), move in zip(self._parts(alpha), steps, strict=True)]

    def _place(self, u: Array) -> Array:
        ends = np.cumsum([factor.coordinates for factor in self.factors]).tolist()
        return jnp.concatenate(
            [factor.place(u[end - factor.coordinates : end]) for factor, end in zip(self.factors, ends, strict=True)]
        )


@functools.lru_cache
def check_family(transform: Transform) -> None:
    """Checks a few starts of a family: a pose must be invertible, and may mirror only if the family says so.

    Raises:
      Mistake: if the matrix of a start is not finite, singular, or mirrors where `Transform.mirrored` is False.
    """
    with jax.ensure_compile_time_eval():  # values at hand even where `align` is called inside jit
        described = jax.vmap(lambda alpha: (transform.matrix(alpha), transform.mirrored(alpha)))
        matrices, mirrored = (np.asarray(part) for part in jax.jit(lambda: described(transform.starts(CHECKED)))())
    matrices = matrices.astype(np.float64)
    if matrices.shape[1:] != (transform.dim, transform.dim + 1):
        raise Mistake(
            f"transform: expected {transform}.matrix to give [{transform.dim}, {transform.dim + 1}], "
            f"got {list(matrices.shape[1:])}"
        )
    finite = np.isfinite(matrices).reshape(len(matrices), -1).all(axis=1)
    determinants = np.linalg.det(np.nan_to_num(matrices[:, :, :-1], posinf=0.0, neginf=0.0))
    bad = np.flatnonzero(~(finite & (np.where(mirrored, -1, 1) * determinants > 0)))
    if len(bad):
        raise Mistake(
            f"transform: expected {transform} to give finite matrices of positive determinant, neither singular nor "
            f"mirrored, but {len(bad)} of {len(matrices)} starts do not, first {bad[0]}: {matrices[bad[0]].tolist()}"
        )


def affine(linear: Array, shift: Array | None = None) -> Array:
    """The pull map [linear | shift], [d, d+1]; no shift by default."""
    shift = jnp.zeros(linear.shape[0], linear.dtype) if shift is None else shift
    return jnp.concatenate([linear, shift[:, None]], axis=1)


def upper(log_scales: Array, shears: Array) -> Array:
    """Upper triangular [d, d] with scales exp(log_scales) on the diagonal; row i's shears come before row i+1's."""
    d = log_scales.shape[0]
    shear = jnp.eye(d, dtype=log_scales.dtype).at[np.triu_indices(d, 1)].set(shears)
    return shear * jnp.exp(log_scales)[None]
