"""Images in, batches out: the embedded digits at known random poses, and the order in which they are drawn.

Batches are a function of the step number alone, so a run that resumes needs no iterator state.
"""

import dataclasses
import functools
import importlib.resources
from typing import NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from avae.transforms import Rotation, Transform
from avae.warp import warp_one

POSES = ("fixed", "upright", "fresh")
BINARIZE = ("none", "threshold", "sample")


@dataclasses.dataclass(frozen=True)
class Data:
    """Which images, at which poses.

    Attributes:
      name: the data set; "digits" is the embedded subset of MNIST.
      pose: "fixed" (one random pose per image, by seed), "upright" (as they are), or "fresh" (a new random pose each
        time a training image is drawn; test images are at fixed poses).
      transform: the family from whose prior poses are drawn.
      seed: of poses and of binarisation.
      n_train: training images used, at most 12,000 of the digits.
      n_test: test images used, at most 2,000 of the digits.
      binarize: "none" (grey), "threshold" at 0.5, or "sample" (each pixel drawn once, by seed, with its grey value as
        the probability): for likelihoods in nats of a distribution over binary images. After the pose.
    """

    name: str = "digits"
    pose: str = "fixed"
    transform: Transform = Rotation()
    seed: int = 0
    n_train: int = 12_000
    n_test: int = 2_000
    binarize: str = "none"

    def __post_init__(self) -> None:
        for field, value, allowed in (
            ("name", self.name, ("digits",)),
            ("pose", self.pose, POSES),
            ("binarize", self.binarize, BINARIZE),
        ):
            if value not in allowed:
                raise ValueError(f"data.{field}: expected one of {', '.join(allowed)}, got {value!r}")
        if self.transform.dim != 2:
            raise ValueError(
                f"data.transform: the digits are images, but {type(self.transform).__name__} poses volumes"
            )
        if self.n_train < 1 or self.n_test < 1:
            raise ValueError(f"data: expected n_train and n_test of at least 1, got {self.n_train} and {self.n_test}")
        if self.pose == "fresh" and self.binarize != "none":
            raise ValueError(
                'data: pose "fresh" resamples grey images at every draw and cannot be binarized beforehand'
            )


class Examples(NamedTuple):
    """Images [N, H, W, C] float32 in [0, 1], labels [N] int32, and the poses [N, size] that they were given."""

    images: np.ndarray
    labels: np.ndarray
    poses: np.ndarray


class Splits(NamedTuple):
    """Training and test examples."""

    train: Examples
    test: Examples


def load(data: Data) -> Splits:
    """The training and test examples that `data` describes, in memory.

    Raises:
      ValueError: if more examples are asked for than there are.
    """
    raw = _digits()
    train_key, test_key = jax.random.split(jax.random.key(data.seed))
    train = _examples(data, raw["train_images"], raw["train_labels"], data.n_train, train_key, "n_train")
    test_data = dataclasses.replace(data, pose="fixed") if data.pose == "fresh" else data
    test = _examples(test_data, raw["test_images"], raw["test_labels"], data.n_test, test_key, "n_test")
    return Splits(train, test)


def order(n: int, batch_size: int, seed: int) -> grain.MapDataset:
    """`order(...)[step]` are the indices [batch_size] of that step's batch: every epoch a new permutation of `n`.

    Raises:
      ValueError: if there are fewer examples than the batch holds.
    """
    if n < batch_size:
        raise ValueError(f"train.batch_size: expected at most the {n} training examples, got {batch_size}")
    return grain.MapDataset.range(n).seed(seed).shuffle().repeat().batch(batch_size, drop_remainder=True)


@functools.partial(jax.jit, static_argnames="transform")
def repose(images: Array, poses: Array, transform: Transform) -> Array:
    """Each image [B, H, W, C] at its pose [B, size]; clipped to [0, 1] against rounding."""
    warped = jax.vmap(lambda image, pose: warp_one(image, transform.matrix(pose)))(images, poses)
    return jnp.clip(warped, 0.0, 1.0)


def binarize(images: ArrayLike, how: str, key: Array) -> ArrayLike:
    """Grey images as `Data.binarize` says: "none", "threshold", or "sample" drawn by `key`."""
    if how == "threshold":
        return (jnp.asarray(images) > 0.5).astype(jnp.float32)
    if how == "sample":
        return jax.random.bernoulli(key, jnp.asarray(images)).astype(jnp.float32)
    return images


def _digits() -> dict[str, np.ndarray]:
    with (
        importlib.resources.as_file(importlib.resources.files("avae") / "digits" / "digits.npz") as path,
        np.load(path) as raw,
    ):
        return dict(raw)


def _examples(data: Data, images: np.ndarray, labels: np.ndarray, n: int, key: Array, field: str) -> Examples:
    if n > len(images):
        raise ValueError(f"data.{field}: expected at most the {len(images)} embedded digits, got {n}")
    images = images[:n, ..., None].astype(np.float32) / np.float32(255)
    poses = jnp.broadcast_to(data.transform.identity, (n, data.transform.size))
    if data.pose == "fixed":
        poses = jax.vmap(data.transform.sample)(jax.random.split(key, n))
        images = np.concatenate(
            [np.asarray(repose(images[i : i + 500], poses[i : i + 500], data.transform)) for i in range(0, n, 500)]
        )
    images = np.asarray(binarize(images, data.binarize, jax.random.fold_in(key, 1)))
    return Examples(images, labels[:n].astype(np.int32), np.asarray(poses))
