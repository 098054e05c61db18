"""Images to begin with, and a picture of what was found: for notebooks."""

import os
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from avae.data import sources
from avae.data.sources.stacks import Rows, index
from avae.objective import Alignment
from avae.runtime.mistake import Mistake


def examples(name: str | os.PathLike[str] = "digits", n: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Images that are embedded in the package, or those of a file or folder.

    Args:
      name: "digits", "cells", "furniture", or a path; see docs/poses.md.
      n: the first so many; None for all.

    Returns:
      The images [N, *space, C], float32 as a run sees them, and the index of the label of each [N].

    Raises:
      Mistake: if the source is missing or damaged, or holds fewer.
    """
    _, train, test = sources.opened(os.fspath(name))
    _, (labels, _) = index(train, test)
    n = len(labels) if n is None else n
    if not 1 <= n <= len(labels):
        raise Mistake(f"n: expected from 1 to the {len(labels)} examples of {name}, got {n}")
    return Rows(train, np.arange(n))[:], labels[:n]


def figure(x: ArrayLike, found: Alignment, n: int = 12) -> Any:
    """Draws the first images as they came, in the pose that was found, and reconstructed.

    The tick at the edge of an image points to what became "up". Volumes are rendered.

    Args:
      x: images [B, *space, C], as they were given to `avae.align`.
      found: what it returned.
      n: how many are shown.

    Returns:
      A Matplotlib figure, one column per image.

    Raises:
      Mistake: if there is not one pose for each image.
    """
    from avae.report.pictures import grid  # Matplotlib takes a second to import

    images = np.asarray(x)[:n]
    if len(np.asarray(x)) != len(found.alpha):
        raise Mistake(f"x: expected {len(found.alpha)} images, one for each pose, got {len(np.asarray(x))}")
    canonical, back, matrix = (np.asarray(a)[:n] for a in (found.canonical, found.reconstruction, found.matrix))
    return grid(images, canonical, back, matrix)
