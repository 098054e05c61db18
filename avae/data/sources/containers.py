"""Arrays in HDF5 files and Zarr groups: `file.h5:dataset`, `store.zarr:array`, or the file alone if it holds one."""

import contextlib
import pathlib
from typing import Any

import numpy as np

from avae.data.sources import extras
from avae.data.sources.arrays import check_labels, with_channels
from avae.data.sources.lazy import Lazy
from avae.data.sources.stacks import Stack
from avae.data.sources.walk import text
from avae.runtime.files import expanded
from avae.runtime.mistake import Mistake, suggestion

SUFFIXES = (".h5", ".hdf5", ".hdf", ".zarr")


def split(name: str) -> tuple[pathlib.Path, str]:
    """The file and the dataset of a name such as "file.h5:images"; "" where the name says none."""
    head, colon, inside = name.rpartition(":")
    if colon and pathlib.Path(head).suffix.lower() in SUFFIXES:
        return pathlib.Path(head), inside
    return pathlib.Path(name), ""


def holds(name: str) -> bool:
    """Whether a name is that of a dataset in a file, or in a folder, of these kinds that is there."""
    path, _ = split(name)
    return path.suffix.lower() in SUFFIXES and expanded(path).exists()


def read(name: str, dim: int) -> tuple[Stack, Stack]:
    """Twice the stack in a dataset; labels [N] are those of a dataset `labels` beside it.

    Raises:
      Mistake: if the library is missing, the file is damaged, or the dataset is not there, or no stack.
    """
    path, inside = split(name)
    arrays = _hdf5(path) if path.suffix.lower() != ".zarr" else _zarr(path)
    stacks = [key for key, array in arrays.items() if array.ndim >= 3]
    if not inside and len(stacks) == 1:
        inside = stacks[0]
    inside = inside.strip("/")
    if inside not in arrays:
        hint = suggestion(inside, arrays) or f"; it holds {', '.join(stacks[:8]) or 'no stack'}"
        raise Mistake(f"data.name: expected {path}:<dataset>, got {inside!r}{hint}")
    array = arrays[inside]
    where = f"{text(path)}:{inside}"
    lazy: Any = Lazy(array.shape, array.dtype, lambda rows: _rows(array, rows))
    beside = "/".join((*inside.split("/")[:-1], "labels"))
    given = np.asarray(arrays[beside]) if beside in arrays else None
    given = given.astype(str) if given is not None and given.dtype.kind == "O" else given
    stack = Stack(with_channels(lazy, where, dim), given, f"examples of {where}")
    check_labels(stack, f"labels beside {where}")
    return stack, stack


def _rows(array: Any, rows: np.ndarray) -> np.ndarray:
    """Rows, in one slice where they follow each other."""
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
        return np.asarray(array[int(rows[0]) : int(rows[-1]) + 1])
    return np.asarray(array[rows] if not hasattr(array, "oindex") else array.oindex[rows])


def _hdf5(path: pathlib.Path) -> dict[str, Any]:
    h5py = extras.package("h5py", "HDF5 files are read", "hdf5")
    found: dict[str, Any] = {}
    try:
        file = h5py.File(path, "r")
        file.visititems(lambda key, item: found.update({key: item}) if isinstance(item, h5py.Dataset) else None)
    except OSError as error:
        raise Mistake(f"data.name: expected an HDF5 file, but {path} cannot be read ({error})") from None
    return found


def _zarr(path: pathlib.Path) -> dict[str, Any]:
    zarr = extras.package("zarr", "Zarr stores are read", "zarr")
    try:
        opened = zarr.open(str(path), mode="r")
    except Exception as error:  # of any store, or of what is none
        raise Mistake(f"data.name: expected a Zarr store, but {path} cannot be read ({error})") from None
    if isinstance(opened, zarr.Array):
        return {path.stem: opened}
    found: dict[str, Any] = {}
    with contextlib.suppress(AttributeError):
        found |= {key: array for key, array in opened.members(max_depth=None) if isinstance(array, zarr.Array)}
    return found
