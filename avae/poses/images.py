"""Aligned images on disk, in the format, dtype and value range of the data, written a batch at a time."""

import pathlib
import sys
from typing import Any

import numpy as np
import tifffile

from avae.data.sources import mrc
from avae.data.sources.fit import HINT
from avae.data.sources.mrc import package
from avae.data.sources.stacks import Stack
from avae.runtime.files import let_go
from avae.runtime.mistake import Mistake
from avae.transforms import Transform

SUFFIXES = {".mrcs": (*mrc.SUFFIXES, ".star"), ".tif": (".tif", ".tiff")}  # others become .npy


class Units:
    """Stored values as a model sees them, and back: a line through the least and the largest of each image.

    Args:
      raw: images [B, *space, C] as stored.
      scale: what the reader makes of them.
    """

    def __init__(self, raw: np.ndarray, scale: Any) -> None:
        self.seen = scale(raw)
        axes = tuple(range(1, raw.ndim))
        kind = raw.dtype
        low, high = (np.asarray(end(raw, axis=axes, keepdims=True), np.float64) for end in (np.min, np.max))
        seen_low, seen_high = (end(self.seen, axis=axes, keepdims=True).astype(np.float64) for end in (np.min, np.max))
        span = seen_high - seen_low
        with np.errstate(invalid="ignore", divide="ignore"):
            self._slope = np.where(span > 0, (high - low) / np.where(span > 0, span, 1), 1.0)
        self._low, self._seen_low, self._kind = low, seen_low, kind

    def stored(self, seen: np.ndarray) -> np.ndarray:
        """What such values would be as stored, in the dtype of the images."""
        with np.errstate(invalid="ignore", over="ignore"):
            values = self._low + (seen - self._seen_low) * self._slope
            if self._kind.kind == "b":
                return values > 0.5
            if self._kind.kind in "iu":
                info = np.iinfo(self._kind)
                values = np.clip(np.rint(np.nan_to_num(values)), info.min, info.max)
            return values.astype(self._kind)


class _Mapped:
    """A .npy file, or a TIFF of one page per image; one channel has no axis."""

    def __init__(self, path: pathlib.Path, like: Any) -> None:
        shape = like.shape if like.shape[-1] > 1 else like.shape[:-1]
        if not path.exists():
            _create(path, shape, like)
        self._file, self._shape = _map(path, "r+"), like.shape

    def write(self, index: np.ndarray, images: np.ndarray) -> None:
        self._file.reshape(self._shape)[index[0] : index[-1] + 1] = images
        self._file.flush()
        let_go(self._file)

    def close(self) -> None:
        self._file.flush()


def _create(path: pathlib.Path, shape: tuple[int, ...], like: Any) -> None:
    if path.suffix == ".npy":
        np.lib.format.open_memmap(path, "w+", like.dtype, shape).flush()
        return
    photometric = "rgb" if like.shape[-1] in (3, 4) else "minisblack"
    stored = np.dtype(np.uint8) if like.dtype == bool else like.dtype
    tifffile.memmap(path, shape=shape, dtype=stored, photometric=photometric, bigtiff=True)


def _map(path: pathlib.Path, mode: Any) -> Any:
    return tifffile.memmap(path, mode=mode) if path.suffix == ".tif" else np.load(path, mmap_mode=mode)


class _Mrc:
    """An .mrcs file with the sample spacing of the data."""

    def __init__(self, path: pathlib.Path, like: Any, header: pathlib.Path | None) -> None:
        mrcfile: Any = package()
        if path.exists():
            self._file = mrcfile.mmap(path, "r+", permissive=True)
            return
        mode, shape = mrcfile.utils.mode_from_dtype(like.dtype), like.shape[:-1]
        self._file = mrcfile.new_mmap(path, shape, mode, overwrite=True)
        if header is not None:
            with mrcfile.open(header, header_only=True, permissive=True) as old:
                self._file.voxel_size = old.voxel_size
        self._file.set_image_stack() if len(shape) == 3 else self._file.set_volume()

    def write(self, index: np.ndarray, images: np.ndarray) -> None:
        self._file.data[index[0] : index[-1] + 1] = images[..., 0]
        self._file.flush()
        let_go(self._file.data)

    def close(self) -> None:
        self._file.update_header_stats()
        self._file.close()


def writer(path: pathlib.Path, like: Any, header: pathlib.Path | None = None) -> Any:
    """Something with `write(index, images)` and `close()`, for images of the shape and dtype of `like` [N, *space, C].

    Args:
      path: of the file; its suffix says the format. What is there already is written over, image by image.
      like: the images as stored.
      header: an MRC file with the sample spacing.
    """
    return _Mrc(path, like, header) if path.suffix == ".mrcs" else _Mapped(path, like)


def opened(path: pathlib.Path, channels: int) -> np.ndarray:
    """The images [N, *space, C] of a file that `writer` wrote, mapped from it."""
    images = package().mmap(path, "r", permissive=True).data if path.suffix == ".mrcs" else _map(path, "r")
    return images[..., None] if channels == 1 else images


def suffix_of(source: str) -> str:
    """The format in which images of a source are written: its own where that holds stacks, else .npy."""
    return next((suffix for suffix, of in SUFFIXES.items() if source.lower().endswith(of)), ".npy")


def check_shape(stack: Stack, shape: tuple[int, ...] | None) -> None:
    """Raises Mistake if the examples are not those that a run was trained on."""
    if shape and stack.images.shape[1:] != tuple(shape):
        hint = HINT if stack.images.shape[-1] == shape[-1] else ""
        raise Mistake(
            f"{stack.what}: expected examples {tuple(shape)}, as the run was trained on, got {stack.images.shape[1:]}"
            + hint
        )


def check_spacing(stack: Stack, family: Transform) -> None:
    """A line on standard error where volumes have voxels of other proportions than those of a run, whose turns fail."""
    theirs, ours = stack.spacing, getattr(family, "spacing", None)
    if theirs is None or ours is None:
        return
    ratio = np.array(theirs) / np.array(ours)
    if ratio.max() > 1.01 * ratio.min():
        print(f"{stack.what}: voxels of {theirs} along x, y, z, but the run turns those of {ours}", file=sys.stderr)


def check_beside(other: Stack, stack: Stack) -> None:
    """Raises Mistake if a stack does not have an example of the same space for each of another."""
    wanted, got = stack.images.shape[:-1], other.images.shape[:-1]
    if wanted != got:
        expected = f"expected {wanted[0]} examples of {wanted[1:]}, as the data have"
        raise Mistake(f"--also: {expected}, got {got} in {other.what}")
