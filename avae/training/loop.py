"""The training loop on the host: feeds steps, saves states, and stops on a signal."""

import contextlib
import itertools
import pathlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from avae.checks import check_images, check_poses
from avae.data import dataset as data, known
from avae.experiment import Experiment
from avae.inference.health import N_IMAGES
from avae.model import Params
from avae.runtime import devices
from avae.runtime.mistake import Mistake
from avae.training import run_folder
from avae.training.checkpoint import Checkpoints, load
from avae.training.step import TrainState, init_state, steps_per_run, train_step, trained
from avae.training.watch import Watch, Writer


class Interrupted(Exception):
    """The run was told to stop by a signal; its state is saved. `signum` says by which."""

    def __init__(self, signum: int, step: int, workdir: pathlib.Path) -> None:
        self.signum = signum
        name = signal.Signals(signum).name
        super().__init__(f"stopped by {name} after step {step}, saved in {workdir}; start again to go on")


def fit(experiment: Experiment, workdir: pathlib.Path, config: Mapping[str, Any] | ConfigDict | None = None) -> Params:
    """Trains from the newest checkpoint in `workdir`, or from the beginning, to the end; on all devices there are.

    Args:
      experiment: what is trained.
      workdir: the folder of the run; no other job can train in it meanwhile.
      config: the config of the experiment. It makes `workdir` the run's own when the first step is about to run, so
        that a command with a mistake leaves no trace; None if `run_folder.claim` was called before.

    Raises:
      Mistake: if the data does not fill a batch, does not go with the model, or is not that of the run in `workdir`;
        if the weights to start from are those of other networks, the batch cannot be split over the devices, no
        checkpoint can be read, or another job trains in `workdir`.
      OSError: if a checkpoint or a log cannot be written; the last good checkpoint is kept.
      Interrupted: after SIGINT or SIGTERM, once the state is saved.
    """
    train = experiment.train
    devices.check_batch(train.batch_size)
    order = data.order(experiment.data.n_train, train.batch_size, train.seed)
    total = steps_per_run(train, experiment.data.n_train)

    def claim() -> None:
        if config is not None:
            run_folder.claim(workdir, config)

    with run_folder.held(workdir), Checkpoints(workdir, train.keep_last, train.keep_best) as checkpoints:
        experiment = run_folder.with_background(workdir, experiment)
        state = devices.replicate(init_state(experiment))
        state = checkpoints.restore(state) or started(state, train.start)
        first = int(state.step)
        if first >= total:
            claim()
            return trained(state, experiment)
        splits, experiment = _training_images(experiment)
        images = splits.train.images
        if train.poses and first == 0:
            state = state.replace(poses=devices.replicate(jnp.asarray(_known(experiment, splits))))
        state = state.replace(params=state.params.replace(model=experiment.model))
        with contextlib.closing(data.batches(images, order, first, total)) as batches:
            batches = itertools.chain([next(batches)], batches)
            claim()
            run_folder.keep_data(workdir, experiment.data)
            with Writer(workdir, first) as writer, stop_signal() as stop:
                watch = Watch(train, workdir, writer, first, total)
                some = np.asarray(images[np.arange(min(len(images), N_IMAGES))]) if train.search else None
                state = _steps(experiment, state, batches, watch, checkpoints, stop, some)
    return trained(state, experiment)


def started(state: TrainState, run: str) -> TrainState:
    """The state with the weights of another run; itself where `run` is ""; raises Mistake if they do not fit."""
    if not run:
        return state
    weights, (own, tree) = load(run).weights, jax.tree.flatten(state.params.weights)
    leaves, theirs = jax.tree.flatten(weights)
    if tree != theirs or any(a.shape != b.shape for a, b in zip(leaves, own, strict=True)):
        raise Mistake(f"train.start: expected networks of the same kind and sizes as here, got others in {run}")
    return state.replace(params=state.params.replace(weights=devices.replicate(weights)))


def _training_images(experiment: Experiment) -> tuple[data.Splits, Experiment]:
    """The examples, and the experiment with their background; checks all images."""
    splits, name = data.load(experiment.data), experiment.data.name
    train, test = splits.train.images, splits.test.images
    some = train[np.arange(min(len(train), 512))]
    check_images(some, experiment.model, name=f"data.name: training images of {name}")
    for part, extremes in (("training", data.extremes(train)), ("test", data.extremes(test))):
        check_images(extremes, experiment.model, name=f"data.name: {part} images of {name}")
    return splits, experiment.with_background(splits.background)


def _known(experiment: Experiment, splits: data.Splits) -> np.ndarray:
    """The known poses [n_train, size] of the training images."""
    model = experiment.model
    poses = known.read(experiment.train.poses, experiment.data.name, model.transform, (model.image_shape or ())[:-1])
    return np.asarray(check_poses(poses, splits.total, model.transform))[splits.rows]


def _steps(
    experiment: Experiment,
    state: TrainState,
    batches: Iterator[tuple[np.ndarray, Array]],
    watch: Watch,
    checkpoints: Checkpoints,
    stop: Callable[[int], int | None],
    some: np.ndarray | None,
) -> TrainState:
    """Runs the steps that are left. A state is saved only after its step was seen to be finite.

    At each checkpoint the health of poses is measured on `some` images.
    """
    with watch:
        for step in range(watch.first, watch.total):
            with watch.reading():
                index, batch = next(batches)
            state, metrics = train_step(state, batch, experiment, devices.count(), index)
            watch.see(step, metrics)
            signum = stop(step)
            saved = signum or step + 1 == watch.total or (step + 1) % experiment.train.checkpoint_every == 0
            if saved:
                watch.settle()
                checkpoints.save(state, watch.mean_loss())
            if signum:
                checkpoints.wait()
                raise Interrupted(signum, step + 1, watch.workdir)
            if saved and some is not None and devices.first_process():
                watch.examine(step + 1, jax.device_get(state.params), some)
    return state


@contextlib.contextmanager
def stop_signal() -> Iterator[Callable[[int], int | None]]:
    """A function of the step number that gives the signal by which the run was told to stop, or None.

    In one process: the first SIGINT or SIGTERM; a second acts as before, and so does the first if it came after the
    last step. With several processes, SIGTERM to any one stops all at the same step; SIGINT is not intercepted.
    """
    if jax.process_count() > 1:
        yield lambda step: signal.SIGTERM if multihost_utils.reached_preemption_sync_point(step) else None
        return
    seen: list[int] = []
    told = False

    def note(signum: int, restore: Callable[[], None]) -> None:
        seen.append(signum)
        restore()

    def stop(step: int) -> int | None:
        nonlocal told
        told = bool(seen)
        return seen[0] if seen else None

    with on_signal(note):
        yield stop
    if seen and not told:
        signal.raise_signal(seen[0])


@contextlib.contextmanager
def on_signal(handler: Callable[[int, Callable[[], None]], None]) -> Iterator[None]:
    """SIGINT and SIGTERM call `handler(signum, restore)` while the block runs; `restore` ends that at once.

    Nothing is changed outside the main thread, which alone receives signals.
    """
    before: dict[int, Any] = {}

    def restore() -> None:
        for signum, action in before.items():
            signal.signal(signum, action)

    if threading.current_thread() is threading.main_thread():
        for signum in (signal.SIGINT, signal.SIGTERM):
            before[signum] = signal.signal(signum, lambda number, _: handler(number, restore)) or signal.SIG_DFL
    try:
        yield
    finally:
        restore()
