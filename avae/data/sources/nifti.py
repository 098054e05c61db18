"""Volumes in NIfTI files: a folder of them, one each, or the times of one file of four axes.

NIfTI stores [x, y, z(, t)]; here they are [D, H, W] = [z, y, x]. Values are those of the header's slope and intercept.
The orientation in a scanner is not looked at: voxels stay where they are in the array, and so do our x, y and z.
"""

import collections
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from avae.data.sources import extras, walk
from avae.data.sources.lazy import Lazy
from avae.data.sources.stacks import Stack
from avae.data.sources.walk import PARTS, File, text
from avae.runtime.mistake import Mistake

SUFFIXES = (".nii", ".nii.gz")


def find(root: pathlib.Path, *, quiet: bool = False) -> list[File]:
    """The NIfTI files below `root`: see `avae.data.sources.walk.find`."""
    return walk.find(root, SUFFIXES, "NIfTI volumes", quiet=quiet)


def read(path: pathlib.Path, dim: int) -> tuple[Stack, Stack]:
    """The training and test stack of a folder or a file, with the lengths of its voxels; twice the same if not split.

    Raises:
      Mistake: if nibabel is not installed, a file is damaged or holds no volume, or they differ in shape or voxels.
    """
    if dim != 3:
        raise Mistake(f"data.transform: {path} holds volumes, but the transform poses images")
    if not path.is_dir():
        stack = _times(path)
        return stack, stack
    files = find(path)
    labelled = len({file.category for file in files}) > 1
    stacks = [_volumes(path, part, labelled) for part in (_of(files, PARTS[0]), _of(files, PARTS[1])) if part]
    if not stacks:
        stacks = [_volumes(path, files, labelled)]
    elif len(stacks) == 1:
        raise Mistake(f"data.name: expected volumes in folders train and test of {path}, got one of the two alone")
    return stacks[0], stacks[-1]


def _of(files: Sequence[File], part: str) -> list[File]:
    return [file for file in files if file.part == part]


def _volumes(root: pathlib.Path, files: Sequence[File], labelled: bool) -> Stack:
    """The stack of files that hold a volume each."""
    paths = [file.path for file in files]
    kinds = collections.Counter(map(_kind, paths))
    if len(kinds) > 1:
        counts = ", ".join(f"{n} of {shape} {dtype}, voxels {size}" for (shape, dtype, size), n in kinds.most_common(5))
        raise Mistake(f"data.name: expected volumes of one shape, dtype and voxel size in {root}, got {counts}")
    shape, dtype, spacing = next(iter(kinds))
    if len(shape) != 3:
        raise Mistake(f"data.name: expected volumes [x, y, z] in {root}, got shape {shape}")

    def some(rows: np.ndarray) -> np.ndarray:
        return np.stack([_values(paths[row], dtype) for row in rows])

    images = Lazy((len(paths), *shape[::-1], 1), dtype, lambda rows: some(rows)[..., None])
    labels = np.array([file.category for file in files]) if labelled else None
    names = np.array([str(path.relative_to(root)) for path in paths])
    return Stack(images, labels, f"volumes of {text(root)}", names=names, spacing=spacing)


def _times(path: pathlib.Path) -> Stack:
    """The stack of one file of four axes."""
    shape, dtype, spacing = _kind(path)
    if len(shape) != 4:
        raise Mistake(f"data.name: expected {path} to hold volumes [x, y, z, t], got {shape}; name the folder of files")

    def some(rows: np.ndarray) -> np.ndarray:
        return np.stack([_values(path, dtype, int(row)) for row in rows])

    images = Lazy((shape[3], *shape[2::-1], 1), dtype, lambda rows: some(rows)[..., None])
    return Stack(images, None, f"volumes of {text(path)}", spacing=spacing)


def _opened(path: pathlib.Path) -> Any:
    nibabel = extras.package("nibabel", "NIfTI files are read", "nifti")
    try:
        return nibabel.load(path)
    except Exception as error:  # of a damaged header, nearly anything
        raise Mistake(f"data.name: expected a NIfTI file, but {path} cannot be read ({error})") from None


def _kind(path: pathlib.Path) -> tuple[tuple[int, ...], np.dtype, tuple[float, ...]]:
    """Shape [x, y, z(, t)], dtype as it is read, and lengths of a voxel along x, y, z."""
    file = _opened(path)
    dtype: Any = file.header.get_data_dtype().newbyteorder("=")
    if dtype.kind not in "buif":
        raise Mistake(f"data.name: expected {path} to hold real numbers, got dtype {dtype}")
    scaled = (file.dataobj.slope, file.dataobj.inter) != (1, 0)  # the header forgets them when it is read
    shape = file.shape[:3] + tuple(side for side in file.shape[3:] if side > 1)
    lengths = tuple(round(float(length), 5) for length in file.header.get_zooms()[:3])
    return shape, np.dtype(np.float32) if scaled else dtype, lengths


def _values(path: pathlib.Path, dtype: np.dtype, time: int | None = None) -> np.ndarray:
    """One volume [D, H, W]."""
    proxy = _opened(path).dataobj
    try:
        values = np.asarray(proxy if time is None else proxy[..., time])
    except (OSError, EOFError, ValueError) as error:
        raise Mistake(f"data.name: expected a NIfTI file, but {path} cannot be read ({error})") from None
    return values.reshape(values.shape[:3]).T.astype(dtype)
