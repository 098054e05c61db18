"""A folder of PNG, JPEG or TIFF images: decoded once into the cache, and again where a file has changed.

Sub-folders name the labels; folders called train and test give the split. All images are of one size and kind. How
their values become numbers:

    8 bits         divided by 255; 0 and 1 where the whole folder holds nothing else (masks)
    1 bit          0 and 1
    real           as they are where all of them are in [0, 1]
    other whole numbers, signed ones, other real values
                   linearly, the least value of the whole folder becomes 0 and the largest 1: detectors fill their range
                   as they like. A line on standard error tells both, and the mean: one hot pixel compresses the rest.
    alpha          the last channel, divided by the number that means opaque
"""

import collections
import contextlib
import hashlib
import os
import pathlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from avae.data.sources import cache, image_files, meshes, tiff, walk
from avae.data.sources.fit import AS_IT_IS, HINT, Fit
from avae.data.sources.image_files import Picture
from avae.data.sources.stacks import Stack, halves, zero_one
from avae.data.sources.walk import File, some, text
from avae.runtime.mistake import Mistake
from avae.runtime.progress import Progress

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
RULES = b"3"  # by which files become arrays: another number where they change, so that caches are made again
LIMIT = 0.1  # of the files may be unreadable: then they are left out and named


class Linear(NamedTuple):
    """Stored values [..., C] as float32: `low` becomes 0, `high` 1; in a last channel of alpha, `opaque` becomes 1."""

    low: float
    high: float
    opaque: float = 0  # 0 where there is no alpha

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """The values of `images`."""
        values = (images.astype(np.float64) - self.low) / ((self.high - self.low) or 1)
        if self.opaque:
            values[..., -1] = images[..., -1] / self.opaque
        return values.astype(np.float32)


def read(root: pathlib.Path, fit: Fit = AS_IT_IS) -> tuple[Stack, Stack]:
    """The training and test stack of a folder; twice the same if it has no split.

    Files that cannot be read are left out, counted and named on standard error. Images of several sizes are brought to
    one as `fit` says.

    Raises:
      Mistake: if there is no image, more than a tenth of them cannot be read, or they differ in size or kind.
    """
    files = find(root)
    digest = hashlib.sha256(RULES)
    for file in files:
        state = file.path.stat()
        digest.update(os.fsencode(file.path.relative_to(root)) + f" {state.st_size} {state.st_mtime_ns}\n".encode())
    place = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:12]
    name = "-".join(
        [f"folders/{root.resolve().name[:40]}", place, *([fit.how] if fit.how else []), *map(str, fit.space)]
    )
    arrays, facts = cache.cached(name, digest.hexdigest(), lambda made: _decode(root, files, made, fit))
    for key, what in (("unreadable", "left out"), ("oblong", "with pixels that are not square, taken as square")):
        if facts[key]:
            print(f"{text(root)}: {len(facts[key])} file(s) {what}: {some(facts[key])}", file=sys.stderr)
    what = f"readable images of {text(root)}"
    low, high, mean = facts["range"]
    dtype = next(array.dtype for key, array in arrays.items() if key.endswith("images"))
    if dtype in (np.uint8, np.bool):
        return zero_one(*halves(arrays, what))
    if dtype.kind == "f" and 0 <= low <= high <= 1:
        return halves(arrays, what)
    print(f"{text(root)}: values from {low:.6g} to {high:.6g} (mean {mean:.6g}) become 0 to 1", file=sys.stderr)
    opaque = 0 if not facts["alpha"] else 1 if dtype.kind == "f" else np.iinfo(dtype).max
    return halves(arrays, what, Linear(low, high, opaque))


def find(root: pathlib.Path, *, quiet: bool = False) -> list[File]:
    """The images below `root`: see `avae.data.sources.walk.find`.

    Raises:
      Mistake: if there are none, or folders called train without folders called test.
    """
    try:
        files = walk.find(root, SUFFIXES, "images", quiet=quiet)
    except ValueError:
        if walk.holds(root, meshes.SUFFIXES):
            raise Mistake(f"data.transform: meshes become volumes, but the transform poses images: {root}") from None
        raise
    parts = sorted({file.part for file in files})
    if parts in (["test"], ["train"]):
        raise Mistake(f"data.name: expected images in folders train and test of {root}, got them in {parts[0]} alone")
    return files


class _Log(NamedTuple):
    """What is found out while files are read.

    Attributes:
      unreadable: those that cannot be read, and why.
      oblong: those whose pixels are not square.
      values: (least, largest, mean) value of the others, alpha not counted.
    """

    unreadable: list[str]
    oblong: list[str]
    values: list[tuple[float, float, float]]


def _decode(root: pathlib.Path, files: list[File], made: pathlib.Path, fit: Fit) -> dict[str, Any]:
    """Writes the images of each part, and their labels if there are several; returns what `read` needs to know."""
    log = _Log([], [], [])
    good, alpha, space = _headers(root, files, log, fit)
    labelled = len({file.category for file in files}) > 1
    with Progress(f"decoding {text(root)}", len(good), unit="image", every=max(1, len(good) // 4)) as progress:
        for part in sorted({file.part for file in good}):
            read: list[File] = []
            prefix = f"{part}_" if part else ""
            of_part = [file for file in good if file.part == part]
            images = _images(root, of_part, read, log, LIMIT * len(files), progress, alpha)
            cache.write(made / f"{prefix}images.npy", (fit.image(image, space) for image in images))
            if labelled:
                np.save(made / f"{prefix}labels.npy", np.array([file.category for file in read]))
            np.save(made / f"{prefix}names.npy", np.array([os.fspath(file.path.relative_to(root)) for file in read]))
    low, high, mean = zip(*log.values, strict=True)
    facts = {"alpha": alpha, "range": [min(low), max(high), float(np.mean(mean))]}
    return facts | {"unreadable": log.unreadable, "oblong": log.oblong}


def _headers(root: pathlib.Path, files: list[File], log: _Log, fit: Fit) -> tuple[list[File], bool, tuple[int, ...]]:
    """The files with a readable header, whether the last channel of all of them is alpha, and their size."""
    good, kinds = [], collections.Counter()
    for file in files:
        try:
            with _opened(file.path) as picture:
                kinds[picture.kind] += 1
        except ValueError as error:
            _note(root, file, error, log, LIMIT * len(files))
            continue
        good.append(file)
        if not picture.square:
            log.oblong.append(str(file.path.relative_to(root)))
    alike = len({(kind.dtype, kind.alpha, kind.shape[2]) for kind in kinds}) == 1
    if len(kinds) > 1 and not (alike and fit.how):
        counts = ", ".join(f"{count} of {kind}" for kind, count in kinds.most_common(6))
        more = f" and {len(kinds) - 6} more kinds" if len(kinds) > 6 else ""
        raise Mistake(f"data.name: expected images of one size and kind in {root}, got {counts}{more}{HINT * alike}")
    sizes = [kind.shape[:2] for kind in kinds.elements()]
    return good, next(iter(kinds)).alpha, fit.size(sizes) if fit.how else sizes[0]


def _images(
    root: pathlib.Path,
    files: list[File],
    read: list[File],
    log: _Log,
    limit: float,
    progress: Progress,
    alpha: bool,
) -> Iterator[np.ndarray]:
    """The images [H, W, C] of the files, one after the other; notes which were read, and their values."""
    for file in files:
        progress.advance()
        try:
            image = _pixels(file.path)
        except ValueError as error:
            _note(root, file, error, log, limit)
            continue
        read.append(file)
        values = image[..., :-1] if alpha else image
        log.values.append((float(values.min()), float(values.max()), float(values.mean(dtype=np.float64))))
        yield image


def _note(root: pathlib.Path, file: File, error: ValueError, log: _Log, limit: float) -> None:
    log.unreadable.append(f"{file.path.relative_to(root)} ({error})")
    if len(log.unreadable) > limit:
        raise Mistake(
            f"data.name: expected at most {limit:.0f} unreadable files (a tenth) in {root}, got {len(log.unreadable)} "
            f"already: {some(log.unreadable)}"
        )


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Picture]:
    """An image of one page, not yet decoded; whatever goes wrong, in the block as well, is a Mistake."""
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # about metadata, or a file that then fails
            with (tiff if file.read(4) in tiff.MAGIC else image_files).opened(path) as picture:
                yield picture
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise Mistake(str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}") from None


def _pixels(path: pathlib.Path) -> np.ndarray:
    """An image [H, W, C] in this machine's byte order; raises Mistake if it cannot be decoded or is not finite."""
    with _opened(path) as picture:
        image = picture.read()
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise Mistake("NaN or infinity")
    return image.astype(image.dtype.newbyteorder("="))
