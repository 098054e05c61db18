"""A folder of PNG, JPEG or TIFF images: decoded once into the cache, and again where a file has changed.

Sub-folders name the labels; folders called train and test give the split. All images are of one size and kind. How
their values become numbers:

    8 bits         divided by 255; palettes become colours
    1 bit          0 and 1
    real (TIFF)    as they are where all of them are in [0, 1]
    16 bits, other real values, whole numbers of 32 bits
                   linearly, the least value of the whole folder becomes 0 and the largest 1: detectors fill their range
                   as they like. A line on standard error tells both, and the mean: one hot pixel darkens all the rest.
"""

import collections
import contextlib
import hashlib
import pathlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from avae.data.sources import cache, meshes, walk
from avae.data.sources.stacks import Stack, halves, real
from avae.data.sources.walk import File, some
from avae.runtime.mistake import Mistake
from avae.runtime.progress import Progress

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
LIMIT = 0.1  # of the files may be unreadable: then they are left out and named
MODES = {
    "L": "8-bit grey",
    "LA": "8-bit grey with alpha",
    "RGB": "8-bit colour",
    "RGBA": "8-bit colour with alpha",
    "1": "1-bit",
    "I;16": "16-bit grey",
    "I": "32-bit grey",
    "F": "real grey",
}  # of Pillow; others become colours
AS_THEY_ARE = ("L", "LA", "RGB", "RGBA", "1")


class Linear(NamedTuple):
    """Stored values as float32: `low` becomes 0, `high` 1."""

    low: float
    high: float

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """The values of `images`, of any shape."""
        return ((images.astype(np.float64) - self.low) / ((self.high - self.low) or 1)).astype(np.float32)


def read(root: pathlib.Path) -> tuple[Stack, Stack]:
    """The training and test stack of a folder; twice the same if it has no split.

    Files that cannot be read are left out, counted and named on standard error.

    Raises:
      Mistake: if there is no image, more than a tenth of them cannot be read, or they differ in size or kind.
    """
    files = find(root)
    digest = hashlib.sha256()
    for file in files:
        state = file.path.stat()
        digest.update(f"{file.path.relative_to(root)} {state.st_size} {state.st_mtime_ns}\n".encode())
    name = f"folders/{root.resolve().name}-{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:12]}"
    arrays, facts = cache.cached(name, digest.hexdigest(), lambda made: _decode(root, files, made))
    if facts["unreadable"]:
        print(f"{root}: {len(facts['unreadable'])} file(s) left out: {some(facts['unreadable'])}", file=sys.stderr)
    low, high, mean = facts["range"]
    if facts["mode"] in AS_THEY_ARE or (facts["mode"] == "F" and 0 <= low <= high <= 1):
        return halves(arrays, f"readable images of {root}", real)
    print(f"{root}: values from {low:.6g} to {high:.6g} (mean {mean:.6g}) become 0 to 1", file=sys.stderr)
    return halves(arrays, f"readable images of {root}", Linear(low, high))


def find(root: pathlib.Path) -> list[File]:
    """The images below `root`: see `avae.data.sources.walk.find`.

    Raises:
      Mistake: if there are none, or folders called train without folders called test.
    """
    try:
        files = walk.find(root, SUFFIXES, "images")
    except ValueError:
        if any(path.suffix.lower() in meshes.SUFFIXES for path in root.rglob("*")):
            raise Mistake(f"data.transform: meshes become volumes, but the transform poses images: {root}") from None
        raise
    parts = sorted({file.part for file in files})
    if parts in (["test"], ["train"]):
        raise Mistake(f"data.name: expected images in folders train and test of {root}, got them in {parts[0]} alone")
    return files


class _Log(NamedTuple):
    """What is found out while files are read: those that cannot be, and (least, largest, mean) value of the others."""

    unreadable: list[str]
    values: list[tuple[float, float, float]]


def _decode(root: pathlib.Path, files: list[File], made: pathlib.Path) -> dict[str, Any]:
    """Writes the images of each part, and their labels if there are several; returns what `read` needs to know."""
    log = _Log([], [])
    good, mode = _headers(root, files, log)
    labelled = len({file.category for file in files}) > 1
    with Progress(f"decoding {root}", len(good), unit="image", every=max(1, len(good) // 4)) as progress:
        for part in sorted({file.part for file in good}):
            categories: list[str] = []
            prefix = f"{part}_" if part else ""
            of_part = [file for file in good if file.part == part]
            images = _images(root, of_part, categories, log, LIMIT * len(files), progress)
            cache.write(made / f"{prefix}images.npy", images)
            if labelled:
                np.save(made / f"{prefix}labels.npy", np.array(categories))
    low, high, mean = zip(*log.values, strict=True)
    return {"mode": mode, "range": [min(low), max(high), float(np.mean(mean))], "unreadable": log.unreadable}


def _headers(root: pathlib.Path, files: list[File], log: _Log) -> tuple[list[File], str]:
    """The files with a readable header, and the mode of all of them."""
    good, kinds = [], collections.Counter()
    for file in files:
        try:
            width, height, mode = _header(file.path)
        except ValueError as error:
            _note(root, file, error, log, LIMIT * len(files))
            continue
        good.append(file)
        kinds[f"{width}x{height} {MODES[mode]}", mode] += 1
    if len(kinds) > 1:
        counts = ", ".join(f"{count} of {kind}" for (kind, _), count in kinds.most_common(6))
        more = f" and {len(kinds) - 6} more kinds" if len(kinds) > 6 else ""
        raise Mistake(f"data.name: expected images of one size and kind in {root}, got {counts}{more}")
    ((_, mode),) = kinds
    return good, mode


def _images(
    root: pathlib.Path, files: list[File], categories: list[str], log: _Log, limit: float, progress: Progress
) -> Iterator[np.ndarray]:
    """The images [H, W, C] of the files, one after the other; notes their categories and values."""
    for file in files:
        progress.advance()
        try:
            image = _pixels(file.path)
        except ValueError as error:
            _note(root, file, error, log, limit)
            continue
        categories.append(file.category)
        log.values.append((float(image.min()), float(image.max()), float(image.mean())))
        yield image


def _note(root: pathlib.Path, file: File, error: ValueError, log: _Log, limit: float) -> None:
    log.unreadable.append(f"{file.path.relative_to(root)} ({error})")
    if len(log.unreadable) > limit:
        raise Mistake(
            f"data.name: expected at most {limit:.0f} unreadable files (a tenth) in {root}, got {len(log.unreadable)} "
            f"already: {some(log.unreadable)}"
        )


def _header(path: pathlib.Path) -> tuple[int, int, str]:
    """Width, height and mode of an image; raises Mistake if it has none, or several pages."""
    with _opened(path) as (image, mode):
        return *image.size, mode


def _pixels(path: pathlib.Path) -> np.ndarray:
    """An image [H, W, C] as stored; raises Mistake if it cannot be decoded, or holds NaN or infinity."""
    with _opened(path) as (image, mode):
        array = np.asarray(image if mode in (image.mode, "I;16") else image.convert(mode))
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise Mistake("NaN or infinity")
    array = array.astype(array.dtype.newbyteorder("="))
    return array if array.ndim == 3 else array[..., None]


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[tuple[Image.Image, str]]:
    """An image of one page, not yet decoded, and its mode, one of MODES; all that goes wrong is a ValueError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata, or a file that then fails
            with Image.open(path) as image:
                if (pages := getattr(image, "n_frames", 1)) != 1:
                    raise Mistake(f"{pages} pages")
                yield image, "I;16" if image.mode.startswith("I;16") else image.mode if image.mode in MODES else "RGB"
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise Mistake(str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}") from None
