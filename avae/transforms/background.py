"""What lies outside of an image: one level per channel, 0 unless something else is said."""

import math
import numbers
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from avae.runtime.mistake import Mistake

SEEN = 1000  # images whose borders are looked at
NUMBERS = 2**24  # in these images at most, but one image in any case
FAR = 0.03  # of the range of all values: borders so far from the background are told of


def levels(background: Any, name: str = "background") -> tuple[float, ...]:
    """A background, one number or one per channel, as a tuple of floats; a tuple of one holds for all channels.

    Raises:
      Mistake: if it is neither, or not finite.
    """
    given = tuple(background) if isinstance(background, Sequence | np.ndarray) else (background,)
    numeric = all(isinstance(level, numbers.Real) and not isinstance(level, bool) for level in given)
    if isinstance(background, str) or not given or not numeric or not all(map(math.isfinite, given)):
        raise Mistake(f"{name}: expected one finite number, or a tuple of one per channel, got {background!r}")
    return tuple(float(level) for level in given)


def check_channels(background: tuple[float, ...], channels: int, name: str = "background") -> None:
    """Raises Mistake unless there is one level, or one for each channel."""
    if len(background) not in (1, channels):
        raise Mistake(f"{name}: expected 1 level, or {channels}, one per channel, got {background}")


def estimate_background(x: Any) -> tuple[float, ...]:
    """The background of images: in each channel the median of the pixels at their borders.

    Args:
      x: images [B, *space, C], of which at most 1,000, evenly spaced, are looked at (fewer, if they are large). Of
        masked arrays, the pixels that are not masked.

    Returns:
      One float per channel, for `avae.Model(background=...)`; 0 for a channel with no pixel at any border.

    Raises:
      Mistake: if x has no batch axis, no axis of space or no channel.
    """
    if len(np.shape(x)) < 3 or 0 in np.shape(x):
        raise Mistake(f"x: expected a batch of images [B, *space, C], got shape {np.shape(x)}")
    few = min(len(x), SEEN, max(1, NUMBERS // math.prod(np.shape(x)[1:])))
    which = np.unique(np.linspace(0, len(x) - 1, few).astype(int))
    some = np.ma.asanyarray(x[which])
    inner = np.zeros(some.shape[1:-1], bool)
    inner[(slice(1, -1),) * inner.ndim] = True
    medians = np.ma.median(some[:, ~inner].reshape(-1, some.shape[-1]), axis=0)
    return tuple(np.ma.filled(medians, 0.0).astype(np.float32).tolist())


def warn_of_borders(x: Array, background: tuple[float, ...]) -> None:
    """Warns of images [B, *space, C] whose borders are not at the background: poses would answer for their corners."""
    with jax.ensure_compile_time_eval():  # values are at hand even where the caller is being traced
        off = bool(_is_off(x, jnp.asarray(background, x.dtype)))
    if off:
        borders = tuple(round(level, 3) for level in estimate_background(np.ma.masked_invalid(x)))
        warnings.warn(
            f"x: the borders of the images lie at {borders}, but the model's background is {background}, the level of "
            "what a pose brings in from outside of the frame; expect wrong poses. Say what the background is: "
            "avae.Model(..., background=avae.estimate_background(x))",
            stacklevel=4,
        )


@jax.jit
def _is_off(x: Array, background: Array) -> Array:
    """Whether in some channel the median of the pixels at the borders of images [B, *space, C] is far from a level."""
    near = FAR * (jnp.nanmax(x) - jnp.nanmin(x))
    inner = np.zeros(x.shape[1:-1], bool)
    inner[(slice(1, -1),) * inner.ndim] = True
    border = x[:, ~inner].reshape(-1, x.shape[-1])
    most = (~jnp.isnan(border)).sum(axis=0) // 2
    below, above = border < background[None] - near, border > background[None] + near
    return ((below.sum(axis=0) > most) | (above.sum(axis=0) > most)).any()
