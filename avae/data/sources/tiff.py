"""TIFF files of one page, by tifffile: whatever their tags say about the pixels is done, or named.

Done: byte order, depth, signs, palettes, zero as white (the stored value is subtracted from the top), colours
premultiplied by alpha, orientation. Compressions that tifffile lacks without the extra "codecs" are left to Pillow,
where it keeps the depth.
"""

import contextlib
import logging
import pathlib
from collections.abc import Iterator

import numpy as np
import tifffile
from tifffile import PHOTOMETRIC

from avae.data.sources import image_files
from avae.data.sources.image_files import Kind, Picture
from avae.runtime.mistake import Mistake

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PLAIN = (PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.RGB, PHOTOMETRIC.PALETTE)
ASSOCIATED, UNASSOCIATED = 1, 2  # kinds of alpha, in the tag ExtraSamples


@contextlib.contextmanager
def opened(path: pathlib.Path) -> Iterator[Picture]:
    """A file of one page whose tags are read."""
    with _quiet(), tifffile.TiffFile(path) as file:
        page = file.pages.first
        if (pages := max(len(file.pages), int((file.imagej_metadata or {}).get("images", 1)))) != 1:
            raise Mistake(f"{pages} pages")
        if page.imagedepth != 1:
            raise Mistake(f"{page.imagedepth} sections")
        if page.photometric not in PLAIN and page.bitspersample <= 8:
            with image_files.opened(path) as picture:  # YCbCr, CMYK
                yield picture
            return
        x, y = (page.tags.valueof(tag, default=(0, 1)) for tag in ("XResolution", "YResolution"))
        yield Picture(_kind(page), (x[0] / (x[1] or 1), y[0] / (y[1] or 1)), lambda: _read(page, path))


def _kind(page: tifffile.TiffPage) -> Kind:
    """What the tags say; raises Mistake where that cannot be honoured."""
    if page.photometric not in PLAIN or page.dtype is None:
        name = getattr(page.photometric, "name", page.photometric)
        raise Mistake(f"{page.bitspersample} bits of {name}; save it as grey or RGB")
    if page.photometric == PHOTOMETRIC.MINISWHITE and page.dtype.kind == "f":
        raise Mistake("real numbers of which zero is white (PhotometricInterpretation 0), and no number black")
    height, width = page.imagelength, page.imagewidth
    if _orientation(page) in (5, 6, 7, 8):
        height, width = width, height
    dtype, channels = page.dtype, page.samplesperpixel
    if page.photometric == PHOTOMETRIC.PALETTE:
        dtype, channels = _palette(page).dtype, 3
    alpha = bool(page.extrasamples) and page.extrasamples[-1] in (ASSOCIATED, UNASSOCIATED)
    return Kind((height, width, channels), dtype.newbyteorder("=").name, alpha)


def _read(page: tifffile.TiffPage, path: pathlib.Path) -> np.ndarray:
    try:
        stored = page.asarray()
    except (ValueError, NotImplementedError) as error:  # a compression, or a packing of bits
        return _by_pillow(page, path, error)
    if stored.ndim == 2:
        stored = stored[..., None]
    elif page.planarconfig == tifffile.PLANARCONFIG.SEPARATE:
        stored = np.moveaxis(stored, 0, -1)
    top = 2**page.bitspersample - 1
    if page.photometric == PHOTOMETRIC.PALETTE:
        stored = _palette(page)[stored[..., 0]]
    elif 1 < page.bitspersample < 8:
        stored, top = (stored * (255 / top)).round().astype(np.uint8), 255
    if page.photometric == PHOTOMETRIC.MINISWHITE:
        stored = ~stored if stored.dtype.kind in "bi" else (top - stored).astype(stored.dtype)
    if page.extrasamples[-1:] == (ASSOCIATED,):
        stored = _straight(stored, 1 if stored.dtype.kind == "f" else top)
    return image_files.upright(stored, _orientation(page))


def _by_pillow(page: tifffile.TiffPage, path: pathlib.Path, error: Exception) -> np.ndarray:
    """What Pillow reads, where that is what the tags say."""
    try:
        with image_files.opened(path) as picture:
            if picture.kind == _kind(page):
                image = picture.read()
                white = page.photometric == PHOTOMETRIC.MINISWHITE and page.bitspersample == 16  # others Pillow turns
                return 65535 - image if white else image
    except OSError:  # Pillow knows less: the first error says more
        pass
    raise Mistake(f"{error}; {image_files.CODECS}") from None


def _palette(page: tifffile.TiffPage) -> np.ndarray:
    """Colours [n, 3] of a palette: of 8 bits where its 16 are no more than that."""
    colours = np.asarray(page.colormap).T
    for unit in (257, 256):
        if not (colours % unit).any():
            return (colours // unit).astype(np.uint8)
    return colours.astype(np.uint16)


def _straight(image: np.ndarray, top: float) -> np.ndarray:
    """Colours that were multiplied by alpha, the last channel, as they were before."""
    values, alpha = image[..., :-1].astype(np.float64), image[..., -1:]
    values = np.clip(values * top / np.where(alpha > 0, alpha, top), 0, top)
    values = values if image.dtype.kind == "f" else values.round()
    return np.concatenate([values.astype(image.dtype), alpha], axis=-1)


def _orientation(page: tifffile.TiffPage) -> int:
    return int(page.tags.valueof("Orientation", default=1))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without tifffile's own lines about damaged files: those are named with the folder."""
    logger = logging.getLogger("tifffile")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
