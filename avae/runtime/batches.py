"""Any number of images, a batch at a time: bounded memory, one compilation, progress on standard error."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from avae.runtime import devices
from avae.runtime.progress import Progress

BATCH, PIXELS = 500, 2**22  # images and numbers at a time: the search holds many copies of a batch


def at_once(example: Sequence[int], limit: int = BATCH) -> int:
    """How many examples of shape `example` go through together: at most `limit`, and fewer where they are large."""
    return max(1, min(limit, PIXELS // math.prod(example)))


def over_batches(
    function: Callable[..., Any], arrays: tuple[np.ndarray, ...], label: str, *, example: Sequence[int] | None = None
) -> Any:
    """Calls `function` on equal batches of `arrays`, each split over all devices, and joins the results on the host.

    The last batch repeats its last example rather than being shorter: one shape, one compilation. A batch that cannot
    be split evenly is given more examples, and their results are dropped: numbers do not depend on the devices.

    Args:
      function: takes one batch [b, ...] of each array, on the devices, returns a pytree of arrays [b, ...].
      arrays: arrays [N, ...], N >= 1.
      label: what is being done, for people.
      example: shape of the images that `function` works on; None for those of the first array.

    Returns:
      The pytree with arrays [N, ...].
    """
    n = len(arrays[0])
    limit = at_once(arrays[0].shape[1:] if example is None else example)
    size = math.ceil(n / math.ceil(n / limit))
    padded = math.ceil(size / devices.count()) * devices.count()
    parts = []
    with Progress(label, n, unit="image", every=max(1, n // 4)) as progress:
        for start in range(0, n, size):
            index = np.minimum(np.arange(start, start + padded), n - 1)
            batch = function(*(devices.take(array, index) for array in arrays))
            parts.append(jax.tree.map(lambda leaf: leaf[:size], devices.fetch(batch)))
            progress.advance(min(size, n - start))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:n], *parts)
