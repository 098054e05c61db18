"""What lies outside of an image: one level per channel, 0 unless something else is said."""

import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

from avae.runtime.mistake import Mistake

SEEN = 1000  # images whose borders are looked at
NUMBERS = 2**24  # in these images at most, but one image in any case


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
