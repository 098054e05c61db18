"""Where images come from, before any pose: one file for each kind of source, `read` for all of them.

Every source gives the same: rows of float32 examples [N, *space, C] for training and for tests that never overlap,
with labels that index the class names.
"""

import contextlib
import difflib
import pathlib
from typing import NamedTuple

import numpy as np

from avae.data.sources import (
    arrays,
    containers,
    embedded,
    folders,
    identity,
    meshes,
    mrc,
    nifti,
    pages,
    star,
    tfds,
    walk,
)
from avae.data.sources.arrays import NOUNS
from avae.data.sources.embedded import EMBEDDED
from avae.data.sources.fit import AS_IT_IS, WAYS as WAYS, Fit as Fit
from avae.data.sources.stacks import Rows, Stack, draw, index, shifted
from avae.runtime.files import expanded
from avae.runtime.mistake import Mistake

KINDS = (arrays, mrc, nifti, pages, star)  # of files, each with its SUFFIXES
SUFFIXES = (*(suffix for kind in KINDS for suffix in kind.SUFFIXES), *containers.SUFFIXES)


class Raw(NamedTuple):
    """Upright examples [N, *space, C], labels [N] int32, and the name of each label: none where there are no labels.

    `rows` [n_train] says where the training examples are among all `total` of the source, those for training first.
    """

    train_images: Rows
    train_labels: np.ndarray
    test_images: Rows
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    rows: np.ndarray | None = None
    total: int = 0


def read(
    name: str,
    *,
    dim: int,
    n_train: int,
    n_test: int,
    seed: int = 0,
    side: int = 32,
    up: str = "z",
    mean: float = 0.0,
    std: float = 1.0,
    fit: Fit = AS_IT_IS,
) -> Raw:
    """The examples of one source; what is on disk stays there until its rows are asked for.

    Args:
      name: "digits" (a subset of MNIST), "cells" (outlines), "furniture" (voxelised models), "tfds:" and the name of a
        set of TensorFlow Datasets, or a path: to a stack (`avae.data.sources.arrays`, `avae.data.sources.mrc`), to a
        folder of images (`avae.data.sources.folders`; for `dim` 2) or of meshes (`avae.data.sources.meshes`; for 3).
      dim: dimension of the space that the images live in, 2 or 3: what a stack of rank 4 means.
      n_train: training examples wanted.
      n_test: test examples wanted.
      seed: draws the examples, and the split where the source has none: the first `n_test` of a permutation are test
        examples, the next `n_train` training examples. The digits keep their order, drawn once and for all.
      side: voxels along each axis of a mesh.
      up: the axis of meshes that points up, "y" or "z".
      mean: taken from each value of a stack.
      std: by what the rest is divided.
      fit: how images of several sizes come to one.

    Returns:
      `Raw`.

    Raises:
      Mistake: if the source is missing, damaged, of another dimension or shape, not finite, or too small.
    """
    check_dim(name, dim)
    path = expanded(name)
    if dim == 3 and _is_folder(name) and not _is_nifti(name):
        return _meshes(path, n_train, n_test, seed, side, up)
    train, test = stored(name, dim, mean, std, fit)
    rows = draw(train, test, n_train, n_test, None if name == "digits" else seed)
    class_names, labels = index(train, test)
    parts = Rows(train, rows[0]), Rows(test, rows[1])
    for part in parts:
        part.check_finite()
    total = len(train.images) + (0 if train is test else len(test.images))
    return Raw(parts[0], labels[0][rows[0]], parts[1], labels[1][rows[1]], class_names, rows[0], total)


def fingerprint(name: str, *, dim: int) -> str:
    """A short hash of what a source holds, wherever it lies and whenever it was written.

    It depends on the number, shape, dtype and labels of the examples, and on all values of at most 256 evenly spaced
    examples (or files of a folder). Sources that differ only in other examples have the same fingerprint.

    Args:
      name: as for `read`.
      dim: as for `read`.

    Returns:
      16 hexadecimal digits.

    Raises:
      Mistake: if the source is missing, damaged, or of another dimension.
    """
    check_dim(name, dim)
    path = expanded(name)
    if _is_folder(name):
        return identity.of_files(
            path, (folders if dim == 2 else nifti if _is_nifti(name) else meshes).find(path, quiet=True)
        )
    train, test = stored(name, dim)
    return identity.of_stacks((train,) if train is test else (train, test))


def missing(name: str) -> str:
    """The sentence for a name that is neither embedded nor a path, with what it may have meant."""
    path = expanded(name)
    beside = [str(path.with_name(other.name)) for other in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(name, [*EMBEDDED, *beside, *(tfds.PREFIX + known for known in tfds.KNOWN)], n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return (
        f"data.name: expected {', '.join(EMBEDDED)}, {tfds.PREFIX}<set>, or a path to a stack "
        f"({', '.join(SUFFIXES)}) or to a folder of images or meshes, but nothing is at "
        f"{name!r}{hint}{_elsewhere(path)}"
    )


def _elsewhere(path: pathlib.Path) -> str:
    """Which place was tried, for the end of a message; "" where the name is hardly a path."""
    if len(path.parts) < 2 and not path.suffix:
        return ""
    return f" (tried {path.absolute()}; where a run's data have moved, eval.py takes --data=PATH)"


def check_dim(name: str, dim: int, poser: str = "the transform") -> None:
    """Raises Mistake if `name` alone says that the data are not of the dimension `dim` that `poser` poses."""
    known = 2 if name.startswith(tfds.PREFIX) else EMBEDDED.get(name, dim)
    if known != dim:
        raise Mistake(f"data.transform: the {name} are {NOUNS[known]}, but {poser} poses {NOUNS[dim]}")


def opened(name: str, fit: Fit = AS_IT_IS) -> tuple[int, Stack, Stack]:
    """2 for a source of images, 3 for one of volumes, by what it holds; and its `stored` stacks.

    Raises:
      Mistake: if it is missing, damaged, or neither.
    """
    if name in EMBEDDED or name.startswith(tfds.PREFIX):
        dim = EMBEDDED.get(name, 2)
    elif _is_folder(name):
        dim = 3 if walk.holds(expanded(name), (*meshes.SUFFIXES, *nifti.SUFFIXES)) else 2
    else:
        with contextlib.suppress(Mistake):
            train, test = stored(name, 2, fit=fit)
            if train.images.shape[-1] <= 4:
                return 2, train, test
        dim = 3
    return dim, *stored(name, dim, fit=fit)


def _is_folder(name: str) -> bool:
    """Whether a name is that of a folder of files, each an example."""
    return name not in EMBEDDED and expanded(name).is_dir() and not containers.holds(name)


def _is_nifti(name: str) -> bool:
    """Whether a name is that of a folder of NIfTI volumes, without meshes."""
    root = expanded(name)
    return _is_folder(name) and walk.holds(root, nifti.SUFFIXES) and not walk.holds(root, meshes.SUFFIXES)


def stored(name: str, dim: int, mean: float = 0.0, std: float = 1.0, fit: Fit = AS_IT_IS) -> tuple[Stack, Stack]:
    """The training and test stack of a source, in its own order; twice the same if it has no split.

    Their values are read less `mean` and over `std`, and their sizes are made one as `fit` says.

    Raises:
      Mistake: as `read`.
    """
    train, test = _stacks(name, dim, fit)
    fitted = fit.stack(train)
    return shifted(fitted, fitted if train is test else fit.stack(test), mean, std)


def _stacks(name: str, dim: int, fit: Fit) -> tuple[Stack, Stack]:
    path = expanded(name)
    if containers.holds(name):
        return containers.read(str(path), dim)
    if dim == 3 and _is_nifti(name):
        return nifti.read(path, dim)
    if dim == 3 and _is_folder(name):
        raise Mistake(f"data.name: expected a stack, got the folder of meshes {path}; save its volumes as one .npy")
    if name in EMBEDDED:
        return embedded.read(name)
    if name.startswith(tfds.PREFIX):
        return tfds.read(name)
    if path.is_dir():
        return folders.read(path, fit)
    if not path.exists():
        raise Mistake(missing(name))
    for kind in KINDS:
        if path.name.lower().endswith(kind.SUFFIXES):
            return kind.read(path, dim)
    raise Mistake(
        f"data.name: expected a stack ({', '.join(SUFFIXES)}) or a folder of images or "
        f"meshes, got the file {path}; {_way_out(path)}"
    )


def _way_out(path: pathlib.Path) -> str:
    """How a file of another kind becomes one that is read."""
    suffix = path.suffix.lower()
    if suffix in (".gz", ".bz2", ".xz", ".zst", ".zip"):
        return "unpack it first"
    if suffix in folders.SUFFIXES or suffix in meshes.SUFFIXES:
        return "name the folder that holds it, or save a stack of many pages as .npy"
    return "save what it holds by numpy.save as one array, examples first"


def _meshes(root: pathlib.Path, n_train: int, n_test: int, seed: int, side: int, up: str) -> Raw:
    train, test = meshes.read(root, n_train, n_test, seed, side, up)
    categories = sorted({mesh.category for mesh in meshes.find(root, quiet=True)})
    labels = [np.array([categories.index(name) for name in part.categories], np.int32) for part in (train, test)]
    rows = [
        Rows(Stack(part.volumes, None, f"meshes of {root}"), np.arange(len(part.volumes))) for part in (train, test)
    ]
    return Raw(rows[0], labels[0], rows[1], labels[1], tuple(categories))
