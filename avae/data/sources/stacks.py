"""Stacks of examples as they are stored, in memory or on disk, and rows of them as float32 when asked for."""

import functools
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from avae.data.sources.lazy import Lazy
from avae.data.sources.walk import PARTS
from avae.networks.values import standardised
from avae.runtime.mistake import Mistake
from avae.transforms.background import check_channels, levels

CHUNK = 2**24  # numbers looked at together where a whole stack is gone through


def real(images: np.ndarray) -> np.ndarray:
    """Stored values as float32: 8-bit divided by 255, others as they are; infinite where they do not fit."""
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    with np.errstate(over="ignore"):
        return images.astype(np.float32)


class Stack(NamedTuple):
    """Examples [N, *space, C] as stored, labels [N] or None, and what is known of them.

    `what` is a name for all of them. `scale` makes float32 of stored values. `names` [N] has one for each, such as its
    file relative to the folder; bytes that are no UTF-8 are lone surrogates (`os.fsdecode`). `spacing` is the size of a
    voxel along x, y, z, where the source gives it.
    """

    images: Any  # np.ndarray or Lazy
    labels: np.ndarray | None
    what: str
    scale: Callable[[np.ndarray], np.ndarray] = real
    names: Any = None  # np.ndarray of str, or None
    spacing: tuple[float, ...] | None = None


def shifted(train: Stack, test: Stack, mean: float, std: float) -> tuple[Stack, Stack]:
    """The stacks with their values less `mean` and over `std`."""

    def of(stack: Stack) -> Stack:
        return stack._replace(scale=lambda images: (stack.scale(images) - np.float32(mean)) / np.float32(std))

    if (mean, std) == (0.0, 1.0):
        return train, test
    both = of(train)
    return both, both if train is test else of(test)


def as_read(stack: Stack, background: Any) -> tuple[float, ...]:
    """What the reader makes of a raw background, one number or one per channel: one number per channel.

    Where each image is brought to a mean and a standard deviation of its own it stays as it is: it is in those.

    Raises:
      Mistake: if it is neither, or a value that the stored dtype does not have.
    """
    given, channels, kind = levels(background), stack.images.shape[-1], stack.images.dtype
    check_channels(given, channels)
    if stack.scale is standardised:
        return given
    raw = np.broadcast_to(np.array(given, np.float64), channels)
    info = np.iinfo(kind) if kind.kind in "iu" else None
    low, high = (raw, raw + 1) if kind.kind == "f" else (0, 1) if info is None else (int(info.min), int(info.max))
    if not ((low <= raw) & (raw <= high)).all():
        raise Mistake(
            f"background: expected values from {low} to {high}, as they are stored ({kind}), got {background}"
        )
    pixels = np.array([np.broadcast_to(low, channels), np.broadcast_to(high, channels)]).astype(kind)
    ends = stack.scale(pixels.reshape(2, *[1] * (len(stack.images.shape) - 2), channels)).reshape(2, channels)
    return tuple((ends[0] + (raw - low) / (high - low) * (ends[1] - ends[0])).tolist())


def halves(
    arrays: Mapping[str, np.ndarray], what: str, scale: Callable[[np.ndarray], np.ndarray] = real
) -> tuple[Stack, Stack]:
    """The training and test stack of arrays that are called `train_images`, `train_labels`, ...

    Twice the same if they are called `images`, `labels` and `names`, of which the last two need not be there.
    """
    if "images" in arrays:
        stack = Stack(arrays["images"], arrays.get("labels"), what, scale, arrays.get("names"))
        return stack, stack

    def of(part: str) -> Stack:
        images, labels, names = (arrays.get(f"{part}_{key}") for key in ("images", "labels", "names"))
        return Stack(images, labels, f"{part} {what}", scale, names)

    return of(PARTS[0]), of(PARTS[1])


def zero_one(train: Stack, test: Stack) -> tuple[Stack, Stack]:
    """The stacks; as bools, with a line on standard error, where their 8-bit values are 0 and 1 alone: masks, voxels.

    A file is gone through once, up to the first value above 1.
    """
    stacks = [stack for stack in (train, test) if stack.images.dtype == np.uint8]
    if (
        not stacks
        or any(isinstance(stack.images, Lazy) for stack in stacks)
        or any(part.max() > 1 for stack in stacks for part in _parts(stack.images))
    ):
        return train, test
    print(f"{train.what.removeprefix('train ')}: 8-bit values of 0 and 1 alone are taken as 0 and 1", file=sys.stderr)
    bits = [
        stack._replace(images=stack.images.view(bool)) if stack.images.dtype == np.uint8 else stack
        for stack in (train, test)
    ]
    return bits[0], bits[0] if train is test else bits[1]


def _parts(images: np.ndarray) -> Iterator[np.ndarray]:
    """A stack, a bounded number at a time."""
    size = max(1, CHUNK // math.prod(images.shape[1:]))
    return (images[start : start + size] for start in range(0, len(images), size))


class Rows:
    """Some examples of a stack [N, *space, C]: `rows[index]` reads those, from disk if need be, as float32.

    `index` is a slice or integers [B]. `numpy.asarray(rows)` reads them all.
    """

    def __init__(self, stack: Stack, rows: np.ndarray) -> None:
        self._stack, self._rows = stack, rows
        self.shape = (len(rows), *stack.images.shape[1:])
        self.nbytes = 4 * math.prod(self.shape)
        self.on_disk = isinstance(stack.images, np.memmap | Lazy)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> np.ndarray:
        return self._stack.scale(np.asarray(self._stack.images[self._rows[index]]))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or np.float32, copy=False)

    def range(self) -> tuple[float, float]:
        """The least and the largest value of all of them; 0 and 1 without a look where they cannot be others."""
        if self._stack.scale is real and self._stack.images.dtype in (np.uint8, bool):
            return 0.0, 1.0
        return self._range

    @functools.cached_property
    def _range(self) -> tuple[float, float]:
        ranges = [(images.min(), images.max()) for images in map(self._stack.scale, self._chunks())]
        return float(min(low for low, _ in ranges)), float(max(high for _, high in ranges))

    def check_finite(self) -> None:
        """Goes through all of them, a bounded number at a time.

        Raises:
          Mistake: if some hold NaN or infinity: how many, and where in the stack the first is.
        """
        if self._stack.images.dtype.kind != "f":
            return
        finite = [np.isfinite(real(images)).reshape(len(images), -1).all(axis=1) for images in self._chunks()]
        bad = np.sort(self._rows)[~np.concatenate(finite)]
        if len(bad):
            raise Mistake(
                f"data.name: expected finite values, got NaN or infinity in {len(bad)} of {len(self)} "
                f"{self._stack.what}, first at index {bad[0]}"
            )

    def _chunks(self) -> Iterator[np.ndarray]:
        """All of them as stored, a bounded number at a time, in the order of the stack: one pass over a file."""
        size = max(1, CHUNK // math.prod(self.shape[1:]))
        ordered = np.sort(self._rows)
        return (np.asarray(self._stack.images[ordered[i : i + size]]) for i in range(0, len(ordered), size))


def draw(train: Stack, test: Stack, n_train: int, n_test: int, seed: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Rows of training and of test examples; in the order of the file without a seed.

    Raises:
      Mistake: if there are fewer than wanted.
    """
    n = len(train.images)
    if train is test:
        if n_train + n_test > n:
            raise Mistake(
                f"data: expected n_train + n_test of at most the {n} {train.what}, got {n_train} + {n_test}"
                + fitting(n_train, n_test, n)
            )
        order = np.random.default_rng(seed).permutation(n)
        return order[n_test : n_test + n_train], order[:n_test]
    rows = []
    for field, stack, wanted in (("n_train", train, n_train), ("n_test", test, n_test)):
        n = len(stack.images)
        if wanted > n:
            raise Mistake(
                f"data.{field}: expected at most the {n} {stack.what}, got {wanted}; "
                f"--config.data.{field}={n} takes all"
            )
        rows.append((np.arange(n) if seed is None else np.random.default_rng(seed).permutation(n))[:wanted])
    return rows[0], rows[1]


def fitting(n_train: int, n_test: int, n: int) -> str:
    """The flags that divide `n` examples as `n_train` and `n_test` would, for the end of a message."""
    if n < 2:
        return ""
    test = min(max(1, round(n * n_test / (n_train + n_test))), n - 1)
    return f"; --config.data.n_train={n - test} --config.data.n_test={test} takes all"


def index(train: Stack, test: Stack) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """The names of all labels, sorted, and the labels as indices into them; all 0 in a part without labels.

    There are no names where the test examples, which are measured, have no labels.
    """
    given = [stack.labels for stack in (train, test) if stack.labels is not None]
    given = [np.char.decode(x, "utf-8", "backslashreplace") if x.dtype.kind == "S" else x for x in given]
    if len({x.dtype.kind == "U" for x in given}) > 1 or (given and np.result_type(*given).kind == "f"):
        given = [labels.astype(str) for labels in given]  # names and numbers, or numbers that no integer holds
    names = np.unique(np.concatenate(given)) if given else np.zeros(0, str)
    indices = iter(np.searchsorted(names, labels).astype(np.int32) for labels in given)
    parts = [
        np.zeros(len(stack.images), np.int32) if stack.labels is None else next(indices) for stack in (train, test)
    ]
    return () if test.labels is None else tuple(names.astype(str).tolist()), parts
