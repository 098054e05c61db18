"""The outer loop on the host: feeds steps, watches them, logs, saves, and stops when told to."""

import contextlib
import pathlib
import signal
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from avae import data
from avae.checkpoint import Checkpoints
from avae.config import Experiment
from avae.logs import Progress, Writer
from avae.model import Params, check_images
from avae.training import TrainState, init_state, steps_per_run, train_step


class Interrupted(Exception):
    """The run was told to stop by a signal; its state is saved. `signum` says by which."""

    def __init__(self, signum: int, step: int, workdir: pathlib.Path) -> None:
        self.signum = signum
        name = signal.Signals(signum).name
        super().__init__(f"stopped by {name} after step {step}, saved in {workdir}; start again to go on")


def fit(experiment: Experiment, workdir: pathlib.Path) -> Params:
    """Trains from the newest checkpoint in `workdir`, or from the beginning, to the end.

    Raises:
      ValueError: if the data does not fill a batch or go with the model, or no checkpoint in `workdir` can be read.
      FloatingPointError: if a step is not finite; the last good checkpoint is kept.
      Interrupted: after SIGINT or SIGTERM, once the state is saved.
    """
    train = experiment.train
    order = data.order(experiment.data.n_train, train.batch_size, train.seed)
    total = steps_per_run(train, experiment.data.n_train)
    with Checkpoints(workdir) as checkpoints:
        state = init_state(experiment)
        state = checkpoints.restore(state) or state
        first = int(state.step)
        if first < total:
            images = data.load(experiment.data).train.images
            looked_at = images[np.arange(min(len(images), 512))]
            check_images(looked_at, experiment.model, name=f"data.name: training images of {experiment.data.name}")
            with Writer(workdir, first) as writer, _stop_signal() as stop:
                watch = _Watch(experiment, workdir, writer, first, total)
                state = _steps(experiment, state, images, order, watch, checkpoints, stop)
    return state.params


def _steps(
    experiment: Experiment,
    state: TrainState,
    images: np.ndarray,
    order: Any,
    watch: "_Watch",
    checkpoints: Checkpoints,
    stop: list[int],
) -> TrainState:
    """Runs the steps that are left. A state is saved only after its step was seen to be finite."""
    with watch:
        for step in range(watch.first, watch.total):
            state, metrics = train_step(state, images[order[step]], experiment)
            watch.see(step, metrics)
            last = step + 1 == watch.total
            if stop or last or (step + 1) % experiment.train.checkpoint_every == 0:
                watch.settle()
                checkpoints.save(state)
            if stop and not last:
                checkpoints.wait()
                raise Interrupted(stop[0], step + 1, watch.workdir)
    return state


class _Watch:
    """Checks that each step is finite, one step late so that the device never waits, and reports on the way."""

    def __init__(self, experiment: Experiment, workdir: pathlib.Path, writer: Writer, first: int, total: int) -> None:
        self.workdir, self.first, self.total = workdir, first, total
        self._train, self._writer = experiment.train, writer
        title = f"{'AVAE' if self._train.search else 'plain VAE'} in {workdir}"
        self._progress = Progress(title, total, done=first, every=self._train.log_every)
        self._progress.say("compiling the first step" if first == 0 else f"resuming after step {first}")
        self._pending: tuple[int, Mapping[str, Any]] | None = None
        self._since, self._clock = first, time.monotonic()

    def __enter__(self) -> "_Watch":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        self._progress.close()

    def see(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Takes in the metrics of `step`, still being computed, and looks at those of the step before."""
        self.settle()
        self._pending = (step, metrics)

    def settle(self) -> None:
        """Looks at the metrics taken in last: waits for them, checks, counts and logs them."""
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        bad = [name for name, value in values.items() if not np.isfinite(value)]
        if bad:
            raise FloatingPointError(
                f"step {step + 1}: {' and '.join(bad)} not finite; the last good checkpoint in {self.workdir} is kept "
                "(try a lower train.learning_rate or train.clip_norm)"
            )
        done, now = step + 1, time.monotonic()
        if done % self._train.log_every == 0 or done == self.total:
            speed = (done - self._since) * self._train.batch_size / (now - self._clock)
            self._since, self._clock = done, now
            self._writer.scalars(done, values | {"images_per_second": speed})
            self._progress.advance(note=f"J {values['loss']:.2f} nats, {speed:,.0f} images/s")
        else:
            if done == self.first + 1:
                self._since, self._clock = done, now  # compilation does not count
            self._progress.advance(note=f"J {values['loss']:.2f} nats")


@contextlib.contextmanager
def _stop_signal() -> Iterator[list[int]]:
    """A list that holds the number of the first SIGINT or SIGTERM, once there was one; a second acts as ever."""
    seen: list[int] = []

    def note(number: int, _: Any) -> None:
        seen.append(number)
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
