"""All shifts of a picture at once: cross-correlation, and the peak between its pixels. One example at a time."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from avae.runtime.products import matmul

FEW = 2**18  # numbers in the shifted copies of an image: one product with them is then quicker than an FFT


def correlate(x: Array, reach: int) -> Callable[[Array], Array]:
    """The function y -> c with c[s] = sum_p x(p) y(p - s), for whole shifts s of up to `reach` pixels along each axis.

    Both are [*space, C] and zero outside of their frame; c is [2 reach + 1] * d, its centre the shift 0, its axes those
    of the images. By FFT; or, where few shifts are asked for, by a product with the shifted copies of x. What concerns
    x alone is computed once.
    """
    space, axes = x.shape[:-1], tuple(range(x.ndim - 1))
    window_shape = (2 * reach + 1,) * len(space)
    if math.prod(window_shape) * x.size <= FEW:
        wide = jnp.pad(x, [(reach, reach)] * len(space) + [(0, 0)])
        corners = itertools.product(*[range(2 * reach + 1)] * len(space))
        copies = jnp.stack(
            [wide[tuple(slice(c, c + n) for c, n in zip(corner, space, strict=True))].ravel() for corner in corners]
        )
        return lambda y: matmul(copies, y.ravel()).reshape(window_shape)
    from scipy.fft import next_fast_len  # here, for it takes a quarter of a second to import

    sides: Any = [next_fast_len(side + reach, real=True) for side in space]  # so much that nothing comes round
    spectrum = jnp.fft.rfftn(x, sides, axes)
    window = np.ix_(*[np.arange(-reach, reach + 1) % side for side in sides])

    def against(y: Array) -> Array:
        product = jnp.sum(spectrum * jnp.conj(jnp.fft.rfftn(y, sides, axes)), axis=-1)
        return jnp.fft.irfftn(product, sides, axes)[window]

    return against


def sums_inside(reach: int, space: tuple[int, ...]) -> Callable[[Array], Array]:
    """`correlate` with an image of ones of shape `space`: for each shift, the sum of what stays in the frame."""
    shifts = np.arange(-reach, reach + 1)[:, None]
    stays = [np.abs(np.arange(side) + shifts - (side - 1) / 2) < side / 2 for side in space]

    def sums(y: Array) -> Array:
        total = jnp.sum(y, axis=-1)
        for axis, inside in enumerate(stays):
            total = jnp.moveaxis(matmul(jnp.moveaxis(total, axis, -1), jnp.asarray(inside.T, y.dtype)), -1, axis)
        return total

    return sums


def peak(scores: Array) -> tuple[Array, Array]:
    """The shift [d] of the highest of the `scores` [2 reach + 1] * d, in pixels (x first), and its score.

    Between pixels along each axis by the parabola through the neighbours; not where the highest is at the edge.
    """
    place = jnp.stack(jnp.unravel_index(jnp.argmax(scores), scores.shape))
    reach = (np.array(scores.shape) - 1) // 2
    highest, steps = scores[tuple(place)], []
    for axis, size in enumerate(scores.shape):
        low, high = (scores[tuple(jnp.clip(place.at[axis].add(by), 0, np.array(scores.shape) - 1))] for by in (-1, 1))
        bend = low + high - 2 * highest
        inside = (place[axis] > 0) & (place[axis] < size - 1) & (bend < 0)
        steps.append(jnp.where(inside, 0.5 * (low - high) / jnp.where(inside, bend, 1.0), 0.0))
    return (place - reach + jnp.stack(steps))[::-1], highest
