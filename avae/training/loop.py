"""The outer loop on the host: feeds steps, saves states, and stops when told to."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
from jax import Array

from avae.checks import check_images
from avae.config import Experiment
from avae.data import dataset as data
from avae.model import Params
from avae.runtime import devices
from avae.runtime.progress import Writer
from avae.training.checkpoint import Checkpoints
from avae.training.signals import Interrupted, stop_signal
from avae.training.step import TrainState, init_state, steps_per_run, train_step, trained
from avae.training.watch import Watch


def fit(experiment: Experiment, workdir: pathlib.Path) -> Params:
    """Trains from the newest checkpoint in `workdir`, or from the beginning, to the end; on all devices there are.

    Raises:
      Mistake: if the data does not fill a batch or go with the model, the batch cannot be split over the devices, or
        no checkpoint in `workdir` can be read.
      FloatingPointError: if a step is not finite; the last good checkpoint is kept.
      OSError: if a checkpoint or a log cannot be written; the last good checkpoint is kept.
      Interrupted: after SIGINT or SIGTERM, once the state is saved.
    """
    train = experiment.train
    devices.check_batch(train.batch_size)
    order = data.order(experiment.data.n_train, train.batch_size, train.seed)
    total = steps_per_run(train, experiment.data.n_train)
    with Checkpoints(workdir, train.keep_last, train.keep_best) as checkpoints:
        state = devices.replicate(init_state(experiment))
        state = checkpoints.restore(state) or state
        first = int(state.step)
        if first < total:
            train_set, test_set, _ = data.load(experiment.data)
            images, name = train_set.images, experiment.data.name
            looked_at = images[np.arange(min(len(images), 512))]
            check_images(looked_at, experiment.model, name=f"data.name: training images of {name}")
            for part, extremes in (("training", data.extremes(images)), ("test", data.extremes(test_set.images))):
                check_images(extremes, experiment.model, name=f"data.name: {part} images of {name}")
            batches = contextlib.closing(data.batches(images, order, first, total))
            with Writer(workdir, first) as writer, stop_signal() as stop, batches as read:
                watch = Watch(train, workdir, writer, first, total)
                state = _steps(experiment, state, read, watch, checkpoints, stop)
    return trained(state, experiment)


def _steps(
    experiment: Experiment,
    state: TrainState,
    batches: Iterator[tuple[np.ndarray, Array]],
    watch: Watch,
    checkpoints: Checkpoints,
    stop: Callable[[int], int | None],
) -> TrainState:
    """Runs the steps that are left. A state is saved only after its step was seen to be finite."""
    with watch:
        for step in range(watch.first, watch.total):
            with watch.reading():
                index, batch = next(batches)
            state, metrics = train_step(state, batch, experiment, devices.count(), index)
            watch.see(step, metrics)
            last, signum = step + 1 == watch.total, stop(step)
            if signum or last or (step + 1) % experiment.train.checkpoint_every == 0:
                watch.settle()
                checkpoints.save(state, watch.mean_loss())
            if signum and not last:
                checkpoints.wait()
                raise Interrupted(signum, step + 1, watch.workdir)
    return state
