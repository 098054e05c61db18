"""Images of several sizes brought to one: padded, cropped or resized."""

import collections
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from avae.data.sources.lazy import Lazy
from avae.data.sources.stacks import Stack
from avae.runtime.mistake import Mistake
from avae.transforms.background import estimate_background

WAYS = ("pad", "crop", "resize")
HINT = "; --fit pad, crop or resize (data.fit in a config) brings them to one size"


class Fit(NamedTuple):
    """How images come to one size.

    Attributes:
      how: "" to leave them as they are; "pad" with the median of their border pixels, to the largest size along each
        axis; "crop" about the centre, to the smallest; "resize" to the most frequent size: their proportions are kept,
        and the rest is padded.
      space: the size [*space] to which they are brought instead; () for none.
      labels: whether whole numbers are labels, resized by the nearest pixel.
    """

    how: str = ""
    space: tuple[int, ...] = ()
    labels: bool = False

    def size(self, sizes: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
        """The size to which images of such sizes, one for each image, are brought.

        Raises:
          Mistake: if some of them cannot be padded, or cropped, to it.
        """
        counts = collections.Counter(sizes)
        ends = {"pad": max, "crop": min}
        target = self.space
        if not target and self.how in ends:
            target = tuple(ends[self.how](sides) for sides in zip(*counts, strict=True))
        elif not target:
            target = counts.most_common(1)[0][0]
        for space in counts if self.how in ends else ():
            if any(ends[self.how](side, new) != new for side, new in zip(space, target, strict=True)):
                limit = "at most" if self.how == "pad" else "at least"
                raise Mistake(
                    f"--fit {self.how}: expected images of {limit} {target}, got {space}; --fit resize takes all"
                )
        return target

    def image(self, image: np.ndarray, space: tuple[int, ...]) -> np.ndarray:
        """One image [*any, C] as [*space, C]."""
        if image.shape[:-1] == space:
            return image
        levels = estimate_background(np.ma.masked_invalid(image[None].astype(np.float32)))
        if self.how == "resize":
            image = _resized(image, space, self.labels and image.dtype.kind != "f")
        cuts = [(max(0, (old - new) // 2), new) for old, new in zip(image.shape, space, strict=False)]
        image = image[tuple(slice(start, start + new) for start, new in cuts)]
        padded = np.broadcast_to(_stored(np.array(levels), image.dtype), (*space, image.shape[-1])).copy()
        places = tuple((new - old) // 2 for old, new in zip(image.shape, space, strict=False))
        padded[tuple(slice(at, at + old) for at, old in zip(places, image.shape, strict=False))] = image
        return padded

    def stack(self, stack: Stack) -> Stack:
        """A stack whose images are brought to `space` as they are read; itself where there is nothing to do."""
        shape: Any = stack.images.shape
        if not self.how or not self.space or shape[1:-1] == self.space or len(shape) != len(self.space) + 2:
            return stack
        space = self.size([shape[1:-1]])

        def read(rows: np.ndarray) -> np.ndarray:
            return np.stack([self.image(image, space) for image in np.asarray(stack.images[rows])])

        return stack._replace(images=Lazy((shape[0], *space, shape[-1]), stack.images.dtype, read))


AS_IT_IS = Fit()


def _resized(image: np.ndarray, space: tuple[int, ...], nearest: bool) -> np.ndarray:
    """The image within `space`, its proportions kept, by Pillow along one axis after the other."""
    scale = min(new / old for old, new in zip(image.shape, space, strict=False))
    how = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR  # which averages where it shrinks
    values = image.astype(np.float32)
    for axis, new in enumerate(space):
        first = np.moveaxis(values, axis, 0)
        flat = np.ascontiguousarray(first.reshape(len(first), -1))
        size = min(new, max(1, round(len(first) * scale)))
        flat = np.asarray(Image.fromarray(flat).resize((flat.shape[1], size), how))
        values = np.moveaxis(flat.reshape(size, *first.shape[1:]), 0, axis)
    return _stored(values, image.dtype)


def _stored(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "b":
        return values > 0.5
    return (np.rint(values) if dtype.kind in "iu" else values).astype(dtype)
