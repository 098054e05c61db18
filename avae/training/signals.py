"""How a run is told to stop: by a signal to its process, or to any of its processes on many hosts."""

import contextlib
import pathlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils


class Interrupted(Exception):
    """The run was told to stop by a signal; its state is saved. `signum` says by which."""

    def __init__(self, signum: int, step: int, workdir: pathlib.Path) -> None:
        self.signum = signum
        name = signal.Signals(signum).name
        super().__init__(f"stopped by {name} after step {step}, saved in {workdir}; start again to go on")


@contextlib.contextmanager
def stop_signal() -> Iterator[Callable[[int], int | None]]:
    """A function of the step number that gives the signal by which the run was told to stop, or None.

    In one process: the first SIGINT or SIGTERM; a second acts as ever. In many: SIGTERM to any of them, of which all
    learn at the same step; SIGINT acts as ever.
    """
    if jax.process_count() > 1:
        yield lambda step: signal.SIGTERM if multihost_utils.reached_preemption_sync_point(step) else None
        return
    seen: list[int] = []

    def note(number: int, _: Any) -> None:
        seen.append(number)
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda step: seen[0] if seen else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
