"""One image file as stored numbers at full depth: its kind, and how it is read.

Here by Pillow, except what Pillow would cut to 8 bits; TIFF in `avae.data.sources.tiff`.
"""

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image

from avae.runtime.mistake import Mistake

DTYPES = {"1": "bool", "I;16": "uint16", "I": "int32", "F": "float32"}  # of Pillow's modes; others are 8-bit
COLOURED = ("L", "LA", "RGB", "RGBA")  # of them a letter is a channel
COLOURS = {1: "grey", 2: "grey with alpha", 3: "colour", 4: "colour with alpha"}
CODECS = 'pip install "avae[codecs]" reads it; so does any reader after it is saved as uncompressed TIFF'


class Kind(NamedTuple):
    """What the images of a folder have in common: shape [H, W, C], dtype, and whether the last channel is alpha."""

    shape: tuple[int, int, int]
    dtype: str
    alpha: bool

    def __str__(self) -> str:
        height, width, channels = self.shape
        dtype = np.dtype(self.dtype)
        bits = f"{1 if dtype.kind == 'b' else 8 * dtype.itemsize}-bit"
        sign = {"i": "signed ", "f": "real "}.get(dtype.kind, "")
        known = channels in COLOURS and self.alpha == (channels in (2, 4))
        return f"{width}x{height} {sign}{bits} {COLOURS[channels] if known else f'{channels} channels'}"


class Picture(NamedTuple):
    """A file whose header is read.

    Attributes:
      kind: see `Kind`.
      resolution: pixels per unit of length along x and y; equal numbers where the file says nothing.
      read: returns the image [H, W, C], of the shape and dtype of `kind`.
    """

    kind: Kind
    resolution: tuple[float, float]
    read: Callable[[], np.ndarray]

    @property
    def square(self) -> bool:
        """Whether its pixels are square, to 1 %."""
        x, y = self.resolution
        return not (x > 0 and y > 0) or abs(x / y - 1) < 0.01


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """An image [H, W, C] as it is to be seen, by the orientation (1 to 8) of its EXIF or TIFF tag."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    return image[:: -1 if orientation in (3, 4, 7, 8) else 1, :: -1 if orientation in (2, 3, 6, 7) else 1]


@contextlib.contextmanager
def opened(path: pathlib.Path) -> Iterator[Picture]:
    """An image of one page whose header is read: upright, palettes as colours, transparency as a last channel."""
    with Image.open(path) as image:
        if (pages := getattr(image, "n_frames", 1)) != 1:
            raise Mistake(f"{pages} pages")
        mode, alpha = _mode(image), image.has_transparency_data
        deep = _deep_channels(path) if image.format == "PNG" and mode != "I;16" else 0
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1) if image.format != "TIFF" else 1  # done there
        height, width = image.size if orientation in (5, 6, 7, 8) else image.size[::-1]
        channels = deep + ("transparency" in image.info) if deep else len(mode) if mode in COLOURED else 1 + alpha
        kind = Kind((height, width, channels), "uint16" if deep else DTYPES.get(mode, "uint8"), alpha)

        def read() -> np.ndarray:
            stored = _deep(path) if deep else np.asarray(image if mode in (image.mode, "I;16") else image.convert(mode))
            stored = stored if stored.ndim == 3 else stored[..., None]
            if stored.shape[2] < channels:
                stored = _with_alpha(stored, image.info["transparency"])
            return upright(stored, orientation)

        resolution = next((image.info[key] for key in ("dpi", "aspect", "jfif_density") if key in image.info), (1, 1))
        yield Picture(kind, resolution, read)


def _mode(image: Image.Image) -> str:
    """The mode of Pillow in which nothing is lost."""
    if image.mode.startswith("I;16"):
        return "I;16"
    if image.mode in ("I", "F") or (image.mode == "1" and not image.has_transparency_data):
        return image.mode
    return ("L" if image.mode in ("1", "L", "LA", "La") else "RGB") + "A" * image.has_transparency_data


def _deep_channels(path: pathlib.Path) -> int:
    """Stored channels of a PNG of 16-bit colours, or of grey with alpha; 0 for any other PNG."""
    with path.open("rb") as file:
        depth, colours = file.read(26)[24:]
    return {2: 3, 4: 2, 6: 4}.get(colours, 0) if depth == 16 else 0


def _deep(path: pathlib.Path) -> np.ndarray:
    """A PNG of 16 bits a channel, by the extra "codecs"."""
    try:
        import imagecodecs  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise Mistake(f"16 bits a channel, which Pillow cuts to 8; {CODECS}") from None
    return imagecodecs.png_decode(path.read_bytes())


def _with_alpha(stored: np.ndarray, transparent: Any) -> np.ndarray:
    """Stored values [H, W, C] with a channel for alpha: 0 where they are the `transparent` one, else the largest."""
    opaque = (stored != np.asarray(transparent)).any(axis=-1, keepdims=True)
    return np.concatenate([stored, opaque.astype(stored.dtype) * np.iinfo(stored.dtype).max], axis=-1)
