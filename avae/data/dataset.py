"""Images in, batches out: examples of a source at known random poses, and the order in which they are drawn.

A batch depends on the step number alone. So a run that resumes needs no iterator state, and batches can be read ahead.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from avae.data import sources
from avae.data.described import AUTO, Data as Data
from avae.data.posing import binarize, posed, repose
from avae.runtime import devices, root_logger
from avae.runtime.mistake import Mistake
from avae.transforms.background import check_channels, estimate_background

with root_logger.untouched():
    import grain

AHEAD = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)  # batches read before they are asked for
IN_MEMORY = 2**30  # bytes of training images that are posed beforehand; where there are more, they are posed when drawn


class Drawn:
    """Images that are posed when they are drawn: `drawn[index]` for integers [B] is a float32 array [B, *space, C].

    Each is the same at every draw: stretch and pose are its own, and so is the key of its binarisation.
    """

    def __init__(self, data: Data, rows: sources.Rows, poses: np.ndarray, stretches: Array | None, key: Array) -> None:
        self.shape = rows.shape
        self._data, self._rows, self._poses, self._key = data, rows, poses, key
        self._stretches = None if stretches is None else np.asarray(stretches)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        stretches = None if self._stretches is None else self._stretches[index]
        data = self._data
        images = repose(self._rows[index], self._poses[index], data.transform, stretches, data.background)
        if data.binarize != "none":
            keys = jax.vmap(jax.random.fold_in, (None, 0))(self._key, jnp.asarray(index))
            images = jax.vmap(lambda image, key: binarize(image, data.binarize, key))(images, keys)
        return np.asarray(images)

    def range(self) -> tuple[float, float]:
        """Bounds of their values: those of the upright images, and the background outside of a frame."""
        (low, high), outside = self._rows.range(), self._data.background
        return (0.0, 1.0) if self._data.binarize != "none" else (min(low, *outside), max(high, *outside))


class Examples(NamedTuple):
    """Images [N, *space, C] float32, labels [N] int32, and the poses [N, size] that they were given.

    Training images on disk, or too large for memory, are read (and posed) by `images[index]`. Test images are always an
    array.
    """

    images: Any  # np.ndarray, sources.Rows or Drawn
    labels: np.ndarray
    poses: np.ndarray


class Splits(NamedTuple):
    """Training and test examples, the name of each label, and the background of the upright images.

    `rows` [n_train] says which of the `total` examples of the source the training images are, where it has an order of
    its own.
    """

    train: Examples
    test: Examples
    class_names: tuple[str, ...] = ()
    background: tuple[float, ...] = (0.0,)
    rows: np.ndarray | None = None
    total: int = 0


def load(data: Data) -> Splits:
    """The training and test examples that `data` describes.

    Raises:
      Mistake: if the source cannot be read or is not of the transform's dimension, more examples are asked for than
        there are, the background has not one level per channel, or images outside [0, 1] are to be binarized.
    """
    raw = sources.read(
        data.name,
        dim=data.transform.dim,
        n_train=data.n_train,
        n_test=data.n_test,
        seed=data.seed,
        side=data.side,
        up=data.up,
        mean=data.mean,
        std=data.std,
        fit=sources.Fit(data.fit),
    )
    if data.background == AUTO:
        data = dataclasses.replace(data, background=estimate_background(raw.train_images))
    check_channels(data.background, raw.train_images.shape[-1], "data.background")
    train_key, test_key = jax.random.split(jax.random.key(data.seed))
    train = _examples(data, raw.train_images, raw.train_labels, train_key, stream=True)
    test_pose = data.test_pose or ("fixed" if data.pose == "fresh" else data.pose)
    test = _examples(dataclasses.replace(data, pose=test_pose), raw.test_images, raw.test_labels, test_key)
    return Splits(train, test, raw.class_names, data.background, raw.rows, raw.total)


def order(n: int, batch_size: int, seed: int) -> grain.MapDataset:
    """`order(...)[step]` are the indices [batch_size] of that step's batch: every epoch a new permutation of `n`.

    Raises:
      Mistake: if there are fewer examples than the batch holds.
    """
    if n < batch_size:
        raise Mistake(
            f"train.batch_size: expected at most the {n} training examples, got {batch_size}; "
            f"--config.train.batch_size={n} is the largest"
        )

    @functools.lru_cache(maxsize=2)  # a batch may reach from one epoch into the next
    def epoch(number: int) -> np.ndarray:
        return np.random.default_rng((seed, number)).permutation(n)

    def rows(step: int) -> np.ndarray:
        epochs, places = np.divmod(np.arange(step * batch_size, (step + 1) * batch_size), n)
        return np.concatenate([epoch(number)[places[epochs == number]] for number in range(epochs[0], epochs[-1] + 1)])

    return grain.MapDataset.range(2**31).map(rows)


def batches(images: Any, order: grain.MapDataset, first: int, total: int) -> grain.DatasetIterator:
    """Indices [B] and images [B, *space, C] of the steps from `first` to `total`, read ahead by a thread.

    Whoever asks for it closes it. What goes wrong in a read is raised when that batch is asked for.
    """

    def read(index: np.ndarray) -> tuple[np.ndarray, Array]:
        return index, devices.take(images, index)

    return iter(order[first:total].map(read).to_iter_dataset(AHEAD))


def factors(data: Data, n: int, key: Array) -> Array | None:
    """Factors [n, dim] by which `n` upright examples are stretched along x, y(, z); None if none are."""
    if data.stretch == 1:
        return None
    limit = math.log(data.stretch)
    return jnp.exp(jax.random.uniform(key, (n, data.transform.dim), minval=-limit, maxval=limit))


def extremes(images: Any) -> np.ndarray:
    """Two images [2, *space, C] that are the least and the largest value of `images` everywhere.

    What a model says of these it says of all: nothing else needs to be read. Of images that are posed when they are
    drawn it is a bound.
    """
    low, high = images.range() if hasattr(images, "range") else (images.min(), images.max())
    return np.stack([np.full(images.shape[1:], value, np.float32) for value in (low, high)])


def _examples(data: Data, rows: sources.Rows, labels: np.ndarray, key: Array, stream: bool = False) -> Examples:
    """Fresh images stay unstretched: both are drawn anew, together, when an image is drawn."""
    n = len(rows)
    pose_key, stretch_key, draw_key = jax.random.split(key, 3)
    poses = jnp.broadcast_to(data.transform.identity, (n, data.transform.size))
    stretches = None if data.pose == "fresh" else factors(data, n, stretch_key)
    if data.pose == "fixed":
        poses = jax.vmap(data.transform.sample)(jax.random.split(pose_key, n))
    moved = data.pose == "fixed" or stretches is not None
    large = rows.nbytes > IN_MEMORY
    if stream and not moved and data.binarize == "none" and (rows.on_disk or large):
        return Examples(rows, labels, np.asarray(poses))
    if data.binarize != "none":
        _check_grey(data, rows)
    if stream and large:
        return Examples(Drawn(data, rows, np.asarray(poses), stretches, draw_key), labels, np.asarray(poses))
    images = posed(rows[:], poses, data.transform, stretches, data.background) if moved else rows[:]
    return Examples(np.asarray(binarize(images, data.binarize, draw_key)), labels, np.asarray(poses))


def _check_grey(data: Data, rows: sources.Rows) -> None:
    low, high = rows.range()
    if not (low >= 0 and high <= 1):
        raise Mistake(
            f"data.binarize: expected grey values in [0, 1], but those of {data.name} run from {low:.4g} to "
            f"{high:.4g}; scale them first, or give --config.data.binarize=none"
        )
