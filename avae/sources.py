"""Where images come from, before any pose: what is embedded, the user's own arrays, and meshes.

Every source gives the same: float32 arrays [N, *space, C] of training and of test examples that never overlap, with
labels that index the class names.
"""

import difflib
import importlib.resources
import pathlib
import zipfile
import zlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from avae import meshes

EMBEDDED = {"digits": 2, "furniture": 3}  # name: dimension
NOUNS = {2: "images", 3: "volumes"}
SPLIT = ("train_images", "train_labels", "test_images", "test_labels")


class Raw(NamedTuple):
    """Upright examples [N, *space, C] float32, labels [N] int32, and the name of each label."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]


class Stack(NamedTuple):
    """Examples [N, *space, C] as stored (8-bit, bool or real; maybe still on disk), labels [N], and their name."""

    images: np.ndarray
    labels: np.ndarray
    what: str


def read(name: str, *, dim: int, n_train: int, n_test: int, seed: int = 0, side: int = 32, up: str = "z") -> Raw:
    """The examples of one source.

    Args:
      name: "digits" (a subset of MNIST), "furniture" (voxelised models), or a path to a stack (.npy or .npz) or to a
        folder tree of meshes. A stack is [N, H, W], [N, H, W, C], [N, D, H, W] or [N, D, H, W, C]: 8-bit (divided by
        255), bool or real. An archive holds it as `images` or `volumes`, with optional `labels` [N] of integers or
        strings; or it holds train_images, test_images, and optional train_labels and test_labels.
      dim: dimension of the space that the images live in, 2 or 3: what a stack of rank 4 means.
      n_train: training examples wanted.
      n_test: test examples wanted.
      seed: draws the examples, and the split where the source has none: the first `n_test` of a permutation are test
        examples, the next `n_train` training examples. The digits keep their order, drawn once and for all.
      side: voxels along each axis of a mesh.
      up: the axis of meshes that points up, "y" or "z".

    Returns:
      `Raw`.

    Raises:
      ValueError: if the source is missing, damaged, of another dimension or shape, not finite, or too small.
    """
    if name in EMBEDDED:
        check_dim(name, dim)
        train, test = _digits() if name == "digits" else _furniture()
    else:
        path = pathlib.Path(name).expanduser()
        if path.is_dir():
            return _meshes(path, dim, n_train, n_test, seed, side, up)
        if not path.exists():
            raise ValueError(missing(name))
        train, test = _stacks(name, _stored(path), dim)
    train_rows, test_rows = _draw(train, test, n_train, n_test, None if name == "digits" else seed)
    class_names, indices = _index(train.labels, test.labels)
    return Raw(
        _floats(train, train_rows), indices[0][train_rows], _floats(test, test_rows), indices[1][test_rows], class_names
    )


def missing(name: str) -> str:
    """The sentence for a name that is neither embedded nor a path, with what it may have meant."""
    path = pathlib.Path(name).expanduser()
    beside = [str(path.with_name(other.name)) for other in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(name, [*EMBEDDED, *beside], n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return (
        f"data.name: expected {', '.join(EMBEDDED)}, a path to a stack (.npy or .npz) or to a folder of meshes, but "
        f"nothing is at {name!r}{hint}"
    )


def check_dim(name: str, dim: int, poser: str = "the transform") -> None:
    """Raises ValueError if the embedded data `name` is not of the dimension `dim` that `poser` poses."""
    if EMBEDDED[name] != dim:
        raise ValueError(f"data.transform: the {name} are {NOUNS[EMBEDDED[name]]}, but {poser} poses {NOUNS[dim]}")


def _digits() -> tuple[Stack, Stack]:
    raw = _embedded("digits")
    train, test = (
        Stack(raw[f"{part}_images"][..., None], raw[f"{part}_labels"], "embedded digits") for part in meshes.PARTS
    )
    return train, test


def _furniture() -> tuple[Stack, Stack]:
    raw = _embedded("furniture")
    voxels = np.unpackbits(raw["voxels"], axis=1).astype(bool).reshape(-1, 32, 32, 32)
    stack = Stack(meshes.stand(voxels)[..., None], raw["category"], "embedded pieces of furniture")
    return stack, stack


def _embedded(name: str) -> dict[str, np.ndarray]:
    with (
        importlib.resources.as_file(importlib.resources.files("avae") / name / f"{name}.npz") as path,
        np.load(path) as raw,
    ):
        return dict(raw)


def _meshes(root: pathlib.Path, dim: int, n_train: int, n_test: int, seed: int, side: int, up: str) -> Raw:
    if dim != 3:
        raise ValueError(f"data.transform: meshes become volumes, but the transform poses {NOUNS[dim]}: {root}")
    train, test = meshes.read(root, n_train, n_test, seed, side, up)
    categories = sorted({mesh.category for mesh in meshes.find(root)})
    labels = [np.array([categories.index(name) for name in part.categories], np.int32) for part in (train, test)]
    return Raw(train.volumes, labels[0], test.volumes, labels[1], tuple(categories))


def _stored(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name; the one of a .npy is left on disk and called `images`."""
    if path.suffix.lower() not in (".npy", ".npz"):
        raise ValueError(f"data.name: expected a stack (.npy or .npz) or a folder of meshes, got the file {path}")
    try:
        with path.open("rb") as file:
            if file.read(2) != b"PK":  # no archive, but one array
                return {"images": np.load(path, mmap_mode="r", allow_pickle=False)}
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                return {key: array for key, array in archive.items() if isinstance(array, np.ndarray)}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"data.name: expected arrays of numbers as numpy.save and numpy.savez write them, but {path} cannot "
            f"be read ({error})"
        ) from None


def _stacks(name: str, arrays: Mapping[str, np.ndarray], dim: int) -> tuple[Stack, Stack]:
    """The training and test stack of a file; twice the same if it has no split."""
    if any(key in arrays for key in SPLIT):
        if lacking := [key for key in SPLIT[::2] if key not in arrays]:
            raise ValueError(f"data.name: expected train_images and test_images in {name}, but it lacks {lacking[0]}")
        train, test = (
            _stack(name, arrays, f"{part}_images", f"{part}_labels", f"{part} examples of {name}", dim)
            for part in meshes.PARTS
        )
        if train.images.shape[1:] != test.images.shape[1:]:
            raise ValueError(
                f"data.name: expected train and test images of one shape, got {train.images.shape[1:]} and "
                f"{test.images.shape[1:]} in {name}"
            )
        return train, test
    keys = [key for key in ("images", "volumes") if key in arrays] or [key for key in arrays if key != "labels"]
    if len(keys) != 1:
        raise ValueError(
            f"data.name: expected one stack in {name}, called images or volumes, got {', '.join(arrays) or 'no array'}"
        )
    stack = _stack(name, arrays, keys[0], "labels", f"examples of {name}", dim)
    return stack, stack


def _stack(name: str, arrays: Mapping[str, np.ndarray], key: str, label_key: str, what: str, dim: int) -> Stack:
    """One stack, checked, with a last axis for channels, and its labels: all 0 if there are none."""
    images = arrays[key]
    layouts = "[N, H, W] or [N, H, W, C]" if dim == 2 else "[N, D, H, W] or [N, D, H, W, C]"
    where = f"{key} of {name}"
    if images.dtype != np.uint8 and images.dtype.kind not in "bf":
        raise ValueError(f"data.name: expected {where} to be 8-bit, bool or real, got dtype {images.dtype}")
    if images.ndim not in (dim + 1, dim + 2):
        raise ValueError(
            f"data.name: expected {where} to be {NOUNS[dim]} {layouts}, for that is what data.transform poses, "
            f"got shape {images.shape}"
        )
    if 0 in images.shape:
        raise ValueError(f"data.name: expected {where} to hold examples, got an empty array of shape {images.shape}")
    if dim == 3 and images.ndim == 4 and images.shape[-1] in (1, 3, 4):
        raise ValueError(
            f"data.transform: {where}, shape {images.shape}, look like images with {images.shape[-1]} channel(s), "
            "but the transform poses volumes; volumes that thin need an axis for channels"
        )
    labels = arrays.get(label_key, np.zeros(len(images), np.int32))
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "biuUS":
        raise ValueError(
            f"data.name: expected {label_key} of {name} to be integers or strings [{len(images)}], got dtype "
            f"{labels.dtype} and shape {labels.shape}"
        )
    return Stack(images if images.ndim == dim + 2 else images[..., None], labels, what)


def _draw(train: Stack, test: Stack, n_train: int, n_test: int, seed: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Rows of training and of test examples; in the order of the file without a seed."""
    n = len(train.images)
    if train is test:
        if n_train + n_test > n:
            raise ValueError(
                f"data: expected n_train + n_test of at most the {n} {train.what}, got {n_train} + {n_test}"
            )
        order = np.random.default_rng(seed).permutation(n)
        return order[n_test : n_test + n_train], order[:n_test]
    rows = []
    for field, stack, wanted in (("n_train", train, n_train), ("n_test", test, n_test)):
        n = len(stack.images)
        if wanted > n:
            raise ValueError(f"data.{field}: expected at most the {n} {stack.what}, got {wanted}")
        rows.append((np.arange(n) if seed is None else np.random.default_rng(seed).permutation(n))[:wanted])
    return rows[0], rows[1]


def _index(train: np.ndarray, test: np.ndarray) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """The names of all labels, sorted, and the labels as indices into them."""
    train, test = (part.astype(str) if part.dtype.kind == "S" else part for part in (train, test))
    if (train.dtype.kind == "U") != (test.dtype.kind == "U"):
        train, test = train.astype(str), test.astype(str)
    names = np.union1d(train, test)
    return tuple(names.astype(str).tolist()), [np.searchsorted(names, part).astype(np.int32) for part in (train, test)]


def _floats(stack: Stack, rows: np.ndarray) -> np.ndarray:
    """The examples [len(rows), *space, C] as float32, and only those: a stack on disk may be larger than memory."""
    images = np.asarray(stack.images[rows])
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    with np.errstate(over="ignore"):  # becomes infinite, and is then refused
        images = images.astype(np.float32)
    bad = rows[~np.isfinite(images).reshape(len(images), -1).all(axis=1)]
    if len(bad):
        raise ValueError(
            f"data.name: expected finite values, got NaN or infinity in {len(bad)} of {len(rows)} {stack.what}, "
            f"first at index {bad.min()}"
        )
    return images
