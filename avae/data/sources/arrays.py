"""The user's own arrays: .npy and .npz files."""

import functools
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from avae.data.sources.stacks import Stack, zero_one
from avae.data.sources.walk import PARTS, text
from avae.runtime.mistake import Mistake

SUFFIXES = (".npy", ".npz")
NOUNS = {2: "images", 3: "volumes"}
SPLIT = ("train_images", "train_labels", "test_images", "test_labels")


def read(path: pathlib.Path, dim: int) -> tuple[Stack, Stack]:
    """The training and test stack of a file; twice the same if it has no split.

    A stack is [N, H, W], [N, H, W, C], [N, D, H, W] or [N, D, H, W, C]: 8-bit (divided by 255), bool or real. An
    archive holds it as `images` or `volumes`, with optional `labels` [N] of integers or strings. Where it has a split,
    the names are train_images and test_images (or _volumes), with optional train_labels and test_labels. A .npy stays
    on disk.

    Raises:
      Mistake: if the file is damaged, or its arrays are not of such a kind, name or shape.
    """
    name = text(path)
    arrays = {key.replace("_volumes", "_images"): array for key, array in _stored(path).items()}
    if any(key in arrays for key in SPLIT):
        if lacking := [key for key in SPLIT[::2] if key not in arrays]:
            raise Mistake(f"data.name: expected train_images and test_images in {name}, but it lacks {lacking[0]}")
        train, test = (
            _stack(name, arrays, f"{part}_images", f"{part}_labels", f"{part} examples of {name}", dim)
            for part in PARTS
        )
        if train.images.shape[1:] != test.images.shape[1:]:
            raise Mistake(
                f"data.name: expected train and test images of one shape, got {train.images.shape[1:]} and "
                f"{test.images.shape[1:]} in {name}"
            )
        return zero_one(train, test)
    keys = [key for key in ("images", "volumes") if key in arrays] or [key for key in arrays if key != "labels"]
    if len(keys) != 1:
        raise Mistake(
            f"data.name: expected one stack in {name}, called images or volumes, or a split, called train_images and "
            f"test_images, got {', '.join(arrays) or 'no array'}"
        )
    stack = _stack(name, arrays, keys[0], "labels", f"examples of {name}", dim)
    return zero_one(stack, stack)


def with_channels(images: np.ndarray, where: str, dim: int) -> np.ndarray:
    """A stack with a last axis for channels.

    Raises:
      Mistake: if it is empty, or its rank is not that of images (`dim` 2) or of volumes (3).
    """
    layouts = "[N, H, W] or [N, H, W, C]" if dim == 2 else "[N, D, H, W] or [N, D, H, W, C]"
    if images.ndim not in (dim + 1, dim + 2):
        raise Mistake(
            f"data.name: expected {where} to be {NOUNS[dim]} {layouts}, for that is what data.transform poses, "
            f"got shape {images.shape}"
        )
    if 0 in images.shape:
        raise Mistake(f"data.name: expected {where} to hold examples, got an empty array of shape {images.shape}")
    if dim == 3 and images.ndim == 4 and images.shape[-1] in (1, 3, 4):
        raise Mistake(
            f"data.transform: {where}, shape {images.shape}, look like images with {images.shape[-1]} channel(s), "
            "but the transform poses volumes; volumes that thin need an axis for channels"
        )
    return images if images.ndim == dim + 2 else images[..., None]


def _stored(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name; the one of a .npy is left on disk and called `images`."""
    try:
        with path.open("rb") as file:
            if file.read(2) != b"PK":  # no archive, but one array
                return {"images": _loaded(path, "images", lambda: np.load(path, mmap_mode="r", allow_pickle=False))}
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                arrays = {key: _loaded(path, key, functools.partial(archive.get, key)) for key in archive}
                return {key: array for key, array in arrays.items() if isinstance(array, np.ndarray)}
    except Mistake:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise Mistake(
            f"data.name: expected arrays of numbers as numpy.save and numpy.savez write them, but {path} cannot "
            f"be read ({error})"
        ) from None


def _loaded(path: pathlib.Path, key: str, load: Callable[[], Any]) -> Any:
    """What `load` returns; says what to do about arrays of Python objects, which are not loaded."""
    try:
        return load()
    except ValueError as error:
        if not any(words in str(error) for words in ("Object arrays", "Python objects")):  # of NumPy
            raise
        better = "labels.astype(str)" if "labels" in key else "numpy.stack(list(images))"
        raise Mistake(
            f"data.name: expected {key} of {path} to be numbers or strings, got Python objects (dtype object), which "
            f"are not loaded; save {better}"
        ) from None


def _stack(name: str, arrays: Mapping[str, np.ndarray], key: str, label_key: str, what: str, dim: int) -> Stack:
    """One stack, checked, and its labels."""
    images = arrays[key]
    where = f"{key} of {name}"
    if images.dtype != np.uint8 and images.dtype.kind not in "bf":
        raise Mistake(
            f"data.name: expected {where} to be 8-bit, bool or real, got dtype {images.dtype}; {_advice(images)}"
        )
    images = with_channels(images, where, dim)
    stack = Stack(images, arrays.get(label_key), what)
    check_labels(stack, f"{label_key} of {name}")
    return stack


def check_labels(stack: Stack, what: str) -> None:
    """Raises Mistake if a stack has labels that are not one integer or string for each example."""
    labels, n = stack.labels, len(stack.images)
    if labels is not None and (labels.shape != (n,) or labels.dtype.kind not in "biuUS"):
        raise Mistake(
            f"data.name: expected {what} to be integers or strings [{n}], got dtype "
            f"{labels.dtype} and shape {labels.shape}; save one integer or string for each example"
        )


def _advice(images: np.ndarray) -> str:
    """How arrays of other kinds can be saved so that they are read."""
    if images.dtype.kind == "c":
        return "save their absolute values, or real and imaginary part as two channels"
    if images.dtype.kind not in "iu":
        return "save one array of numbers"
    return (
        "whole numbers have no scale of their own: save masks as x.astype(bool), other images as "
        "x.astype('float32') / the value that is to be 1, or raw counts at mean 0 and standard deviation 1 for "
        "--config.likelihood.name=gaussian"
    )
