"""The hand-written sampler: pull an image or a volume through an affine map.

A `matrix` [d, d+1] is a *pull map*: it takes an output position to the input position to read,

    out(p) = x(A p + t),    matrix = [A | t]

in normalised coordinates. The origin is the centre of the frame, and one unit is half its *shorter* side on
every axis, so that a rotation never shears. The order is x, y(, z) although arrays are stored [(D,) H, W, C].
Values between pixels are interpolated linearly; outside the frame they are those of the background, by
default zero. On square images that is PyTorch's `affine_grid` + `grid_sample` with `align_corners=False` and
zero padding.

             -1    x    +1
           -1 +---------+
              |  p ---> A p + t
            y |    (read here, write at p)
           +1 +---------+
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from avae.runtime.devices import local
from avae.runtime.mistake import Mistake
from avae.transforms.background import check_channels, levels

MARGIN = 2  # pixels of background all round: as many as one position reads along an axis


def warp(x: ArrayLike, matrix: ArrayLike, background: float | Sequence[float] = 0.0, *, order: int = 1) -> Array:
    """Pulls images through affine maps: `out(p) = x(A p + t)`, the background outside.

    Args:
      x: one image [H, W, C] or volume [D, H, W, C], or a batch of them [B, ...].
      matrix: pull map [d, d+1] with d = 2 or 3, x before y before z; or one per image [B, d, d+1]. It may mirror.
      background: the level outside of the images; one number, or one per channel.
      order: 1 to interpolate; 0 to take the nearest pixel, for masks and labels, which may be of any dtype.

    Returns:
      The warped images, in the shape of `x`. Differentiable in both arguments, forwards and backwards; where
      a position falls exactly on a pixel the derivative is the right-hand one.

    Raises:
      Mistake: if the ranks of `x` and `matrix` do not belong together, a matrix is not finite or singular (its values
        cannot be checked under a trace), or the background has not one level per channel.
    """
    x, matrix = jnp.asarray(x), jnp.asarray(matrix)
    if order not in (0, 1):
        raise Mistake(f"order: expected 0 (nearest pixel) or 1 (interpolation), got {order!r}")
    if order and not jnp.issubdtype(x.dtype, jnp.floating):
        hint = "convert with x.astype('float32'), or give order=0 for labels"
        raise Mistake(f"warp expects floating-point images, got dtype {x.dtype}; {hint}")
    rows = matrix.shape[-2] if matrix.ndim in (2, 3) else 0
    if rows not in (2, 3) or matrix.shape[-1] != rows + 1:
        raise Mistake(f"warp expects a matrix [2, 3] or [3, 4], or one per image, got shape {matrix.shape}")
    batched = x.ndim == rows + 2
    if x.ndim not in (rows + 1, rows + 2) or (matrix.ndim == 3 and not batched):
        raise Mistake(
            f"warp with matrix {matrix.shape} expects x of rank {rows + 1} (one example, channels last) or "
            f"{rows + 2} (a batch), got shape {x.shape}"
        )
    if matrix.ndim == 3 and matrix.shape[0] != x.shape[0]:
        raise Mistake(f"warp expects one matrix per image, got {matrix.shape[0]} matrices for {x.shape[0]} images")
    outside = levels(background)
    check_channels(outside, x.shape[-1])
    if not isinstance(matrix, Tracer):
        _check_matrices(local(matrix).astype(np.float64).reshape(-1, rows, rows + 1))
    each = functools.partial(warp_one, outside=outside, on_grid=order == 0)
    if not batched:
        return each(x, matrix)
    return jax.vmap(each, in_axes=(0, 0 if matrix.ndim == 3 else None))(x, matrix)


@functools.partial(jax.jit, static_argnames=("out", "outside", "on_grid"))  # traced once
def warp_one(
    x: Array,
    matrix: Array,
    out: tuple[int, ...] | None = None,
    *,
    outside: tuple[float, ...] = (0.0,),
    on_grid: bool = False,
) -> Array:
    """Pulls one example `x` [*space, C] through one `matrix` [d, d+1]; any d. The kernel behind `warp`.

    The result has the spatial shape `out`, by default that of `x`. Each frame has its own unit, half its shorter side.
    The level outside of `x` is `outside`, one for each channel or one for all.
    With `on_grid` the nearest pixel is read. That is exact for poses that take pixels to pixels, such as quarter turns.
    The weights are 1 - f and f with f = p - floor(p): `max(0, 1 - |p - i|)` has the wrong derivative exactly on
    pixels, where the identity sits.
    """
    *space, channels = x.shape
    pixels = _with_margin(x, outside)  # to read where a position falls outside
    strides = [math.prod(pixels.shape[axis + 1 : -1]) for axis in range(len(space))]
    pixels = pixels.reshape(-1, channels)
    positions = _positions(matrix, space, out or space)
    cells = [jnp.round(position) if on_grid else jnp.floor(position) for position in positions]
    fractions = [(position - cell)[..., None] for position, cell in zip(positions, cells, strict=True)]

    def between(axis: int, index: Array) -> Array:
        """The pixels at `index`, interpolated along `axis` and those after it with weights 1 - f and f."""
        if on_grid or axis == len(space):
            return pixels.at[index].get(mode="promise_in_bounds")
        f = fractions[axis]
        return between(axis + 1, index) * (1 - f) + between(axis + 1, index + strides[axis]) * f

    found = between(0, _index(cells, space, strides)).astype(x.dtype)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return found
    # The same, but XLA on a CPU does not draw a choice into a sum over pixels: it would take the interpolation along,
    # and each neighbour would be read by a loop of its own, a warp of 48 x 48 pixels nine times as slowly.
    return jnp.where(jnp.isnan(matrix[0, 0]), jnp.nan, found)


def transform_points(matrix: ArrayLike, points: ArrayLike, shape: Sequence[int] | None = None) -> Array:
    """Where points of an image lie in the aligned image, `warp(x, matrix)`: A^-1 (p - t).

    Args:
      matrix: pull map [d, d+1]; or one per set of points [B, d, d+1], as `Alignment.matrix`.
      points: [N, d], or [B, N, d]: x before y before z.
      shape: of the image [*space]: points are then in pixels, the first pixel's centre at 0; None for half-widths from
        the centre.

    Returns:
      The points, in the shape and unit in which they came.

    Raises:
      Mistake: if the shapes do not belong together.
    """
    matrix, points = jnp.asarray(matrix, jnp.float32), jnp.asarray(points, jnp.float32)
    d = matrix.shape[-2] if matrix.ndim in (2, 3) else 0
    if d not in (2, 3) or matrix.shape[-1] != d + 1 or points.ndim != matrix.ndim or points.shape[-1] != d:
        expected = "a matrix [d, d+1] and points [N, d], or one of each per image"
        raise Mistake(f"transform_points expects {expected}, got shapes {matrix.shape} and {points.shape}")
    if matrix.ndim == 3 and len(matrix) != len(points):
        raise Mistake(f"transform_points expects one matrix per set of points, got {len(matrix)} and {len(points)}")
    if shape is not None and len(shape) != d:
        raise Mistake(f"shape: expected {d} sizes, got {tuple(shape)}")
    sizes = jnp.zeros(d) + 1 if shape is None else jnp.asarray(shape[::-1], jnp.float32)
    centre = (sizes - 1)[None] / 2
    unit = 1.0 if shape is None else min(shape) / 2

    def moved(matrix: Array, points: Array) -> Array:
        inverse = invert(matrix)
        return product((points - centre) / unit, inverse[:, :-1].T) * unit + inverse[:, -1][None] * unit + centre

    return jax.vmap(moved)(matrix, points) if matrix.ndim == 3 else moved(matrix, points)


def _with_margin(x: Array, outside: tuple[float, ...]) -> Array:
    """`x` [*space, C] with pixels of the level `outside` all round; those of `x` are untouched."""
    widths = [(MARGIN, MARGIN)] * (x.ndim - 1) + [(0, 0)]
    pixels = jnp.pad(x, widths)
    if not any(outside):
        return pixels
    inside = np.pad(np.ones((*x.shape[:-1], 1), bool), widths)
    return jnp.where(inside, pixels, jnp.broadcast_to(jnp.asarray(outside, x.dtype), pixels.shape))


def invert(matrix: Array) -> Array:
    """The inverse of one pull map [d, d+1], by cofactors (d = 2 or 3): no factorisation inside hot loops."""
    linear, shift = matrix[:, :-1], matrix[:, -1]
    if linear.shape[0] == 2:
        (a, b), (c, d) = linear
        cofactors, determinant = jnp.array([[d, -b], [-c, a]]), a * d - b * c
    else:
        u, v, w = linear
        cofactors = jnp.stack([jnp.cross(v, w), jnp.cross(w, u), jnp.cross(u, v)], axis=1)
        determinant = jnp.sum(u * cofactors[:, 0])
    inverse = cofactors / determinant
    return jnp.concatenate([inverse, -product(inverse, shift[:, None])], axis=1)


def compose(outer: Array, inner: Array) -> Array:
    """Two pull maps in one, `outer` after `inner`: what two warps in that order pull, blurred once."""
    return product(outer[:, :-1], inner).at[:, -1].add(outer[:, -1])


def product(a: Array, b: Array) -> Array:
    """Matrix product [n, m] of small a [n, k] and b [k, m], as a sum: no accelerator rounds it, and it fuses."""
    return jnp.sum(a[:, :, None] * b[None], axis=1)


def _check_matrices(matrices: np.ndarray) -> None:
    """Raises Mistake if one of `matrices` [n, d, d+1] is not finite, or presses the frame flat."""
    n = len(matrices)
    finite = np.isfinite(matrices).reshape(n, -1).all(axis=1)
    stretches = np.linalg.svd(np.nan_to_num(matrices[:, :, :-1], posinf=0.0, neginf=0.0), compute_uv=False)
    for good, what in ((finite, "finite"), (stretches[:, -1] > 1e-6 * stretches[:, 0], "invertible")):
        if not good.all():
            bad = np.flatnonzero(~good)
            raise Mistake(
                f"warp expects {what} matrices, but {len(bad)} of {n} are not, first {bad[0]}: "
                f"{matrices[bad[0]].tolist()}"
            )


def _positions(matrix: Array, space: Sequence[int], out: Sequence[int]) -> list[Array]:
    """Where each pixel of a frame `out` reads in a frame `space`, in its pixels: one array [*out] per axis (z, y, x).

    Worked out in pixels about the centre, where the identity is exact in floating point.
    """
    d = len(space)
    sizes = space[::-1]  # x first, as in the matrix
    unit, step = min(space) / 2, min(space) / min(out)
    centred = [
        ((jnp.arange(size, dtype=matrix.dtype) - (size - 1) / 2) * step).reshape(
            [size if axis == d - 1 - i else 1 for axis in range(d)]
        )
        for i, size in enumerate(out[::-1])
    ]
    positions = [
        sum(matrix[i, j] * centred[j] for j in range(d)) + (matrix[i, d] * unit + (sizes[i] - 1) / 2) for i in range(d)
    ]
    return positions[::-1]


def _index(cells: Sequence[Array], space: Sequence[int], strides: Sequence[int]) -> Array:
    """Where the first of the neighbours of each position is, in the flat array of an image with its margin.

    A cell far outside becomes one whose pixels all lie in the margin: before the cast, so that no float overflows the
    integer.
    """
    index = jnp.zeros((), jnp.int32)
    for cell, size, stride in zip(cells, space, strides, strict=True):
        index = index + (jnp.clip(cell, -MARGIN, size).astype(jnp.int32) + MARGIN) * stride
    return index
