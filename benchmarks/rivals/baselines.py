"""Both of our rows in a comparison, AVAE and plain VAE, trained for so many minutes of a processor; and moments."""

import dataclasses
import os
import pathlib
import subprocess
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import avae
from avae.config import default, experiment
from avae.data import dataset
from avae.evaluation import metrics
from avae.experiment import Experiment
from avae.runtime.mistake import Mistake
from avae.training import step as training

MOST = 300  # epochs: a plain VAE of a few hundred images would learn them by heart in the minutes of a search
EVERY = 4  # epochs from one full search of poses to the next
TIMED = 3  # steps of each kind from which an epoch's time is known


class Trained(NamedTuple):
    """A network with the epochs and the minutes of a processor that it took, compilation included."""

    params: avae.Params
    epochs: int
    minutes: float


def described(images: np.ndarray, family: str, *, mirror: bool, latent: int, seed: int, **train: Any) -> Experiment:
    """An experiment on images in [0, 1] as they are: an MLP, Bernoulli pixels, poses of `family` remembered."""
    config = default()
    config.model.update(image_shape=images.shape[1:], latent=latent)
    config.transform.update(name=family, mirror=mirror)
    config.data.update(name="images.npy", pose="as_is", n_train=len(images))
    config.train.update(seed=seed, search_every=EVERY, batch_size=min(128, max(8, len(images) // 20)))
    config.train.update(train)
    return experiment(config)


def plain(described: Experiment) -> Experiment:
    """The same network without poses."""
    return dataclasses.replace(described, train=dataclasses.replace(described.train, search=None, search_every=1))


def trained(described: Experiment, images: np.ndarray, minutes: float) -> Trained:
    """Trains for about so many minutes of a processor: the epochs that go into them, at least one, at most `MOST`.

    The schedule of the learning rate has to know its end, so the time of an epoch is measured first, on a few steps.
    """
    start = time.process_time()
    pace = _seconds(described, images)
    left = 60 * minutes - (time.process_time() - start)
    epochs = int(min(max(1, left / pace), MOST))
    held = dataclasses.replace(described, train=dataclasses.replace(described.train, epochs=epochs))
    state, order = training.init_state(held), _order(held)
    for number in range(training.steps_per_run(held.train, len(images))):
        index = order[number]
        state, _ = training.train_step(state, jnp.asarray(images[index]), held, 1, jnp.asarray(index))
    params = jax.block_until_ready(training.trained(state, held))
    return Trained(params, epochs, (time.process_time() - start) / 60)


def _seconds(described: Experiment, images: np.ndarray) -> float:
    """Processor time of an epoch, the mean over those with a full search, as in the first quarter, and without."""
    train, order = described.train, _order(described)
    per_epoch = len(images) / train.batch_size
    state, took = training.init_state(described), []
    later = int(np.ceil(per_epoch * (train.search_every * train.epochs + 1)))
    for first in (0, later):  # an epoch that searches, one that remembers
        for number in range(TIMED + 1):
            state = state.replace(step=jnp.asarray(first, jnp.int32))
            index = order[number]
            start = time.process_time()
            state, _ = training.train_step(state, jnp.asarray(images[index]), described, 1, jnp.asarray(index))
            jax.block_until_ready(state)
            if number:
                took.append(time.process_time() - start)
    full, light = np.median(took[:TIMED]), np.median(took[TIMED:])
    later_on = (full + (train.search_every - 1) * light) / train.search_every
    return float(per_epoch * (full + 3 * later_on) / 4)


def _order(described: Experiment) -> Any:
    return dataset.order(described.data.n_train, described.train.batch_size, described.train.seed)


def aligned(params: avae.Params, images: np.ndarray, size: int = 250) -> avae.Alignment:
    """`avae.align` of any number of images as arrays, in batches."""
    parts = [avae.align(params, jnp.asarray(images[i : i + size])) for i in range(0, len(images), size)]
    return jax.tree.map(lambda *leaves: np.concatenate([np.asarray(leaf) for leaf in leaves]), *parts)


def encoded(params: avae.Params, images: np.ndarray) -> np.ndarray:
    """Posterior means of images as they are."""
    parts = [np.asarray(avae.encode(params, jnp.asarray(images[i : i + 500])).mu) for i in range(0, len(images), 500)]
    return np.concatenate(parts)


def angle_errors(pull: np.ndarray, poses: np.ndarray, family: avae.Transform, labels: np.ndarray) -> dict[str, float]:
    """Median error in degrees of pull maps [N, 2, 3] against the true poses, after the best offset of each label.

    "either hand": a thing and its mirror image count as one, as they must where the upright things themselves face
    left as often as right.
    """
    outer = np.asarray(jax.vmap(family.matrix)(jnp.asarray(poses, jnp.float32)), np.float64)[..., :-1]
    left, _, right = np.linalg.svd(outer @ np.asarray(pull, np.float64)[..., :-1])
    net = left @ right
    angle = metrics.planar_angle(net)
    turned = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], axis=1).reshape(-1, 2, 2)
    found = {"median error": metrics.rotation_errors(net, labels)}
    found["median error, either hand"] = metrics.rotation_errors(turned, labels)
    return {name: float(np.median(errors)) for name, errors in found.items()}


def provenance(checkout: str) -> str:
    """Name, commit and licence of somebody else's checkout, in one line.

    Raises:
      Mistake: if there is no such folder.
    """
    folder = pathlib.Path(checkout).expanduser()
    if not folder.is_dir():
        raise Mistake(f"expected the folder of a checkout, got {checkout}")
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "of unknown commit"
    licences = [path for path in sorted(folder.iterdir()) if path.name.lower().startswith(("licen", "copying"))]
    text = licences[0].read_text(errors="replace").strip() if licences else "no licence file: run only"
    return f"{folder.resolve().name} {commit} ({text.splitlines()[0]})"


def on_processor(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and the minutes of a processor that it took."""
    start = time.process_time()
    return call(), (time.process_time() - start) / 60


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
