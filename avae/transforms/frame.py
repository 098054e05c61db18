"""The canonical frame: the window in which the networks see an object, centred on that of the image."""

import dataclasses

from avae.runtime.mistake import Mistake, at_least


@dataclasses.dataclass(frozen=True)
class Frame:
    """The canonical frame.

    Attributes:
      margin: pixels by which it is larger than the image on every side, so that a turned object's corners are not cut.
    """

    margin: int = 0

    def __post_init__(self) -> None:
        at_least("frame", self, margin=0)

    def shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The frame [*space, C] that belongs to images [*space, C]."""
        *space, channels = image_shape
        return (*(side + 2 * self.margin for side in space), channels)

    def image_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The images [*space, C] to which the frame `shape` [*space, C] belongs; the inverse of `shape`.

        Raises:
          Mistake: if there are none.
        """
        *space, channels = shape
        image = (*(side - 2 * self.margin for side in space), channels)
        if min(image) < 1:
            raise Mistake(f"frame: the networks take {tuple(shape)}, too small for a margin of {self.margin}")
        return image
