"""A stack of images in one TIFF file: a page each, or the planes of an OME or ImageJ series."""

import pathlib
from typing import Any

import numpy as np
import tifffile

from avae.data.sources.arrays import with_channels
from avae.data.sources.lazy import Lazy
from avae.data.sources.stacks import Stack, zero_one
from avae.data.sources.walk import text
from avae.runtime.mistake import Mistake

SUFFIXES = (".tif", ".tiff")
CHANNELS = "SC"  # axes of a series that are channels: samples, and OME's own


def read(path: pathlib.Path, dim: int) -> tuple[Stack, Stack]:
    """Twice the stack of a file, its first series; pages whose zero is white are turned.

    Pixels of 8 bits are fractions of 255. Those of 16 and 32 bits have no scale of their own: they stay as they are.

    Raises:
      Mistake: if it cannot be read, holds a single image, or has axes that are none of a stack.
    """
    try:
        with tifffile.TiffFile(path) as file:
            series, white = file.series[0], file.pages.first.photometric == tifffile.PHOTOMETRIC.MINISWHITE
            axes, shape, dtype = series.axes, series.shape, series.dtype
            if len(file.pages) == 1 and len(shape) < 3:
                raise Mistake(f"data.name: expected a stack of pages, got one image in {path}; name the folder instead")
            images = _images(path, file, series)
    except (tifffile.TiffFileError, ValueError, IndexError, NotImplementedError, OSError) as error:
        if isinstance(error, Mistake):
            raise
        raise Mistake(f"data.name: expected a TIFF stack, but {path} cannot be read ({error})") from None
    if dtype.kind not in "buif":
        raise Mistake(f"data.name: expected {path} to hold real numbers, got dtype {dtype}")
    place = next((axes.index(axis) for axis in CHANNELS if axis in axes and axes.index(axis)), None)
    if place is not None and place != len(shape) - 1:
        shape = (*shape[:place], *shape[place + 1 :], shape[place])
        images = Lazy(shape, dtype, _moved(images, place))
    if white and dtype.kind in "bu":
        images = Lazy(shape, dtype, _turned(images))
    found: Any = images
    stack = Stack(with_channels(found, str(path), dim), None, f"examples of {text(path)}")
    return zero_one(stack, stack)


def _images(path: pathlib.Path, file: tifffile.TiffFile, series: Any) -> Any:
    """The planes, mapped from the file where they are neither compressed nor scattered."""
    if series.dataoffset is not None:
        return tifffile.memmap(path, mode="r", series=0)
    if len(series.shape) == 3 and len(series.pages) == series.shape[0]:
        plane = series.shape[1:]
        return Lazy(series.shape, series.dtype, lambda rows: _pages(path, rows).reshape(-1, *plane))
    return file.asarray()


def _moved(images: Any, place: int) -> Any:
    return lambda rows: np.moveaxis(np.asarray(images[rows]), place, -1)


def _turned(images: Any) -> Any:
    return lambda rows: ~np.asarray(images[rows])


def _pages(path: pathlib.Path, rows: np.ndarray) -> np.ndarray:
    return tifffile.imread(path, key=rows.tolist())
