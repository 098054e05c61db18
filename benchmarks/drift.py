"""Do poses drift? Pose errors, J and clusters of models trained for several lengths, on data with known poses.

    python benchmarks/drift.py [particles digits digits2 shifted furniture] --epochs 6 24 [--seeds 1] [--n 4000]

Each row is a run of its own with a schedule of its own, judged on images it has not seen by the search of inference.
Results go to `--out`, one line of JSON per run, as soon as it is done.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from particles import MEDIAN, Stack
from protocol import flags

import avae
from avae import settings
from avae.config import default, experiment
from avae.data import dataset
from avae.evaluation import metrics
from avae.experiment import Experiment
from avae.training import step as training


class Task(NamedTuple):
    """An experiment, its images, and the truth about those held out: poses, their family, labels, and their limit."""

    experiment: Experiment
    train: np.ndarray
    test: np.ndarray
    pose: np.ndarray
    family: avae.Transform
    label: np.ndarray
    limit: float | None = None


def particles(seed: int, n: int, snr: float = 0.5, mirrored: float = 0.0) -> Task:
    """Four objects, 48x48, any angle and shift, brightness of their own; the last 500 are held out."""
    stack = Stack(n + 500, snr=snr, seed=seed, mirrored=mirrored).make()
    config = default()
    config.model.update(image_shape=(48, 48, 1), latent=4, hidden=(256, 256))
    config.likelihood.name = "gaussian"
    config.transform.update(name="rigid", max_shift=0.2, mirror=mirrored > 0)
    config.data.update(name="particles.mrcs", n_train=n)
    config.train.seed = seed
    described = experiment(config)
    pose, family = stack.pose[n:], avae.Rigid()
    if mirrored:
        family = avae.Mirrored(family)
        pose = np.concatenate([stack.mirrored[n:, None], pose], axis=1)
        pose[stack.mirrored[n:], 1:3] *= -1  # turned after the mirror here, before it in the family
    limit = float(np.degrees(np.median(stack.limit[n:])) * MEDIAN)
    return Task(described, stack.images[:n], stack.images[n:], pose, family, stack.label[n:], limit)


def embedded(seed: int, n: int, name: str = "digits", latent: int = 16, family: str = "rotation") -> Task:
    """Digits or furniture, embedded in the package, at fixed random poses."""
    config = default()
    config.model.latent, config.train.seed = latent, seed
    for section in (config.transform, config.data.transform):
        section.update(name=family, max_shift=0.2)
    config.data.n_train = n
    if name == "furniture":
        config.model.image_shape, config.train.batch_size = (32, 32, 32, 1), 64
        config.data.update(name=name, n_train=min(n, 500), n_test=100)
    described = experiment(config)
    splits = dataset.load(described.data)
    described = described.with_background(splits.background)
    test = splits.test
    return Task(described, splits.train.images, test.images, test.poses, described.data.transform, test.labels)


TASKS: dict[str, Callable[[int, int], Task]] = {
    "particles": particles,
    "mirrored": lambda seed, n: particles(seed, n, mirrored=0.5),
    "snr0.1": lambda seed, n: particles(seed, n, snr=0.1),
    "snr0.03": lambda seed, n: particles(seed, n, snr=0.03),
    "digits": embedded,
    "digits2": lambda seed, n: embedded(seed, n, latent=2),
    "shifted": lambda seed, n: embedded(seed, n, family="rigid"),
    "furniture": lambda seed, n: embedded(seed, n, name="furniture", family="cuberotations"),
}


def trained(task: Task, epochs: int, changes: dict[str, Any]) -> tuple[avae.Params, int]:
    """A model trained for so many epochs, and how many steps these are."""
    train = dataclasses.replace(task.experiment.train, epochs=epochs, **changes)
    described = dataclasses.replace(task.experiment, train=train)
    n, state = len(task.train), training.init_state(described)
    steps, order = training.steps_per_run(train, n), dataset.order(n, train.batch_size, train.seed)
    for step in range(steps):
        index = order[step]
        state, _ = training.train_step(state, jnp.asarray(task.train[index]), described, 1, jnp.asarray(index))
    return training.trained(state, described), steps


def judged(task: Task, params: avae.Params) -> dict[str, Any]:
    """What the search of inference finds in the images held out, against what is true."""
    found = jax.tree.map(np.asarray, avae.align(params, jnp.asarray(task.test)))
    net = metrics.net_rotation(params.model.transform, found.alpha, task.pose, task.family)
    right_hand = np.linalg.det(net) > 0
    error = metrics.rotation_errors(net, task.label)
    flags = [
        max(np.mean(right), 1 - np.mean(right)) for right in (right_hand[task.label == k] for k in set(task.label))
    ]
    return {
        "J": float(found.loss.mean()),
        "median": float(np.median(error)),
        "within_5": float(np.mean(error < 5)),
        "within_15": float(np.mean(error < 15)),
        "k_means": metrics.cluster_accuracy(found.latent, task.label),
        "resultant": float(np.mean(list(metrics.class_resultants(net, task.label).values()))),
        "hand": float(np.mean(flags)),
        "std": float(np.degrees(np.median(found.std[:, 0]))) if found.std.shape[1] else None,
        "cover_90": coverage(net, found.std, task.label) if params.model.transform.dim == 2 else None,
    }


def coverage(net: np.ndarray, std: np.ndarray, label: np.ndarray) -> float:
    """Share of pairs of neighbours of one label whose relative angle is zero to 1.645 standard deviations."""
    angle, inside = metrics.planar_angle(net), []
    for group in np.unique(label):
        of_group = np.flatnonzero(label == group)
        first, second = of_group[:-1:2], of_group[1::2]
        apart = np.abs(np.angle(np.exp(1j * (angle[first] - angle[second]))))
        inside.append(apart < 1.645 * np.hypot(std[first, 0], std[second, 0]))
    return float(np.mean(np.concatenate(inside)))


def main() -> None:
    parser = flags(__doc__)
    parser.add_argument("tasks", nargs="*", default=["particles", "digits", "digits2", "shifted", "furniture"])
    parser.add_argument("--epochs", type=int, nargs="+", default=[6, 24])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--n", type=int, default=4000, help="training images")
    parser.add_argument("--set", default="{}", help="JSON: settings of avae.experiment.Train to change")
    args = parser.parse_args()
    changes = json.loads(args.set)
    searched = {k: tuple(v) if isinstance(v, list) else v for k, v in changes.pop("search", {}).items()}
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.tasks:
        for seed in args.seeds:
            task = TASKS[name](seed, args.n)
            search = settings.updated(task.experiment.train.search, searched)
            for epochs in args.epochs:
                start = time.perf_counter()
                params, steps = trained(task, epochs, changes | {"search": search})
                minutes = (time.perf_counter() - start) / 60
                row = {"task": name, "seed": seed, "n": len(task.train), "epochs": epochs, "steps": steps}
                row |= {"set": args.set} | judged(task, params) | {"limit": task.limit, "minutes": minutes}
                with (args.out / "drift.jsonl").open("a") as lines:
                    lines.write(json.dumps(row) + "\n")
                print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)


if __name__ == "__main__":
    main()
