"""How far a long job is: a bar, or log lines."""

import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

from avae.runtime.devices import first_process


class Progress:
    """How far a long job is: a bar with ETA on a terminal, lines with ETA elsewhere; both on standard error.

    Args:
      title: what is being done.
      total: number of units.
      done: units done before (a run that resumes).
      unit: name of a unit.
      every: units between two lines, where there is no terminal.
    """

    def __init__(self, title: str, total: int, *, done: int = 0, unit: str = "step", every: int = 100) -> None:
        self._title, self._total, self._done, self._first, self._every = title, total, done, done, every
        self._unit, self._since, self._start = unit, done, time.monotonic()
        self._bar, self._quiet = None, not first_process()
        if self._quiet:
            return
        if sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=done, desc=title, unit=unit, dynamic_ncols=True)
        else:
            self.say(f"{title}: {total - done} of {total} {unit}s to go")

    def advance(self, n: int = 1, note: str = "") -> None:
        """`n` more units are done; `note` is shown beside the bar, or in the next line."""
        before, self._done = self._done, self._done + n
        if self._bar:
            self._bar.update(n)
            if note:
                self._bar.set_postfix_str(note)
        elif before == self._first or self._done // self._every > before // self._every or self._done == self._total:
            line = f"{self._title}: {self._done}/{self._total} {self._unit}s{self._left()}"
            self.say(line + (f" | {note}" if note else ""))
        if before == self._first:
            self._since, self._start = self._done, time.monotonic()

    def say(self, line: str) -> None:
        """A line that does not break the bar."""
        if self._bar:
            self._bar.write(line, file=sys.stderr)
        elif not self._quiet:
            print(line, file=sys.stderr, flush=True)

    def _left(self) -> str:
        """Time to go, counted without the first unit: compilation happens once."""
        done = self._done - self._since
        if done <= 0 or self._since == self._first:
            return ""
        return f", {_clock((time.monotonic() - self._start) / done * (self._total - self._done))} left"

    def close(self) -> None:
        """Leaves the bar as it is."""
        if self._bar:
            self._bar.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
