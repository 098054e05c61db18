"""Watches a run: checks that every step is finite; logs the metrics, the speed, and what the run waits for."""

import contextlib
import json
import os
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, Self

import jax
import numpy as np

from avae.experiment import Train
from avae.inference.health import health, logged, warnings
from avae.model import Params
from avae.runtime.devices import first_process
from avae.runtime.files import write_whole
from avae.runtime.progress import Progress
from avae.settings import plan

try:
    from tensorboardX import SummaryWriter
except ImportError:  # the extra "tensorboard" is not installed
    SummaryWriter = None


class Diverged(FloatingPointError):
    """A loss or a gradient is not finite. The message says which, and at which step."""


class Writer:
    """Scalars by step, to `workdir/metrics.jsonl` (one JSON object a line) and to TensorBoard where installed.

    A run that resumes after `step` drops what was logged later: those steps are run again.
    """

    def __init__(self, workdir: pathlib.Path, step: int = 0) -> None:
        first = first_process()  # the others write nothing
        path = workdir / "metrics.jsonl" if first else pathlib.Path(os.devnull)
        if first:
            kept = [row for row in read_metrics(workdir) if row["step"] <= step]
            write_whole(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = path.open("a", buffering=1, encoding="utf-8")
        board = SummaryWriter if first else None
        self._board = board(str(workdir / "tensorboard"), purge_step=step + 1) if board else None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the values of one step."""
        self._file.write(json.dumps({"step": step} | dict(values)) + "\n")
        if self._board:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        self._file.close()
        if self._board:
            self._board.close()


def read_metrics(workdir: pathlib.Path) -> list[dict[str, float]]:
    """The rows of `workdir/metrics.jsonl`; a last line cut short by a kill is left out."""
    path = workdir / "metrics.jsonl"
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class Watch:
    """Checks that each step is finite, one step late so that the device never waits, and reports on the way."""

    def __init__(self, train: Train, workdir: pathlib.Path, writer: Writer, first: int, total: int) -> None:
        self.workdir, self.first, self.total = workdir, first, total
        self._train, self._writer = train, writer
        title = f"{'AVAE' if train.search else 'plain VAE'} in {workdir}"
        self._progress = Progress(title, total, done=first, every=train.log_every)
        self._progress.say("compiling the first step" if first == 0 else f"resuming after step {first}")
        self._pending: tuple[int, Mapping[str, Any]] | None = None
        self._losses: list[float] = []
        self._compiling: float | None = None
        self._begin(first)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        self._progress.close()

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Times what is done inside, the making of a batch; if the device was ready before it, the device waited."""
        start = time.monotonic()
        yield
        self._read = time.monotonic()
        self._data += self._read - start
        if self._pending is not None and self._pending[1]["loss"].is_ready():
            self._idle += self._read - start

    def see(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Takes in the metrics of `step`, still being computed, and looks at those of the step before."""
        if step == self.first:  # a call returns as soon as the step is compiled
            self._compiling = time.monotonic() - self._read
            self._progress.say(f"compiled the first step in {self._compiling:.1f} s")
        self.settle()
        self._pending = (step, metrics)

    def settle(self) -> None:
        """Looks at the metrics taken in last: waits for them, checks, counts and logs them.

        Raises:
          Diverged: if one of them is not finite; says which, and at which step.
        """
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        bad = [name for name, value in values.items() if not np.isfinite(value)]
        if bad:
            raise Diverged(
                f"step {step + 1}: {' and '.join(bad)} not finite; the last good checkpoint in {self.workdir} is kept "
                "(try a lower train.learning_rate or train.clip_norm; for Gaussian pixels, standardise the images)"
            )
        self._losses.append(values["loss"])
        done, note = step + 1, f"J {values['loss']:.2f} nats"
        if done % self._train.log_every == 0 or done == self.total:
            rates = self._rates(done)
            self._writer.scalars(done, values | rates)
            note += ", " + _shown(rates)
            self._begin(done)
        elif done == self.first + 1:
            self._begin(done)  # compilation does not count
        self._progress.advance(note=note)

    def examine(self, step: int, params: Params, images: np.ndarray) -> None:
        """Measures the health of poses after `step` on a few images, logs it, and says in words what is wrong."""
        found = health(params, images)
        self._writer.scalars(step, logged(found))
        for sentence in warnings(found, min(images.shape[1:-1]), plan(params.model).search):
            self._progress.say(f"step {step}: {sentence}")
        self._begin(step)  # what this took is no part of the speed

    def mean_loss(self) -> float:
        """Mean training loss of the steps settled since this was last asked for; infinity if there are none."""
        losses, self._losses = self._losses, []
        return float(np.mean(losses)) if losses else float("inf")

    def _begin(self, done: int) -> None:
        """An interval begins after `done` steps."""
        self._since, self._clock, self._data, self._idle = done, time.monotonic(), 0.0, 0.0

    def _rates(self, done: int) -> dict[str, float]:
        """What an interval is logged with besides the metrics of its last step."""
        seconds = time.monotonic() - self._clock
        rates = {
            "images_per_second": (done - self._since) * self._train.batch_size / seconds,
            "data_share": self._data / seconds,
            "idle_share": self._idle / seconds,
            "cpu_seconds": time.process_time(),
        }
        if self._compiling is not None:
            rates["compile_seconds"], self._compiling = self._compiling, None
        memory = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
        return rates | ({} if memory is None else {"device_memory": float(memory)})


def _shown(rates: Mapping[str, float]) -> str:
    """The rates for people."""
    shown = f"{rates['images_per_second']:,.0f} images/s, {rates['data_share']:.1%} of the time in data"
    return shown + (f", {rates['device_memory'] / 2**30:.1f} GiB at most" if "device_memory" in rates else "")
