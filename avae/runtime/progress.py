"""What a long job tells people: how far it is, and sentences."""

import codecs
import contextlib
import io
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from tqdm import tqdm

from avae.runtime.devices import first_process


def say(text: str, file: TextIO | None = None) -> None:
    """Prints to `file` (default: standard output), whatever its encoding: a queue's or a container's may be ASCII."""
    file = sys.stdout if file is None else file
    encoding = getattr(file, "encoding", None) or "utf-8"
    print(text.encode(encoding, "plain").decode(encoding), file=file, flush=True)


def _plain(error: UnicodeError) -> tuple[str, int]:
    """What stands for characters that an encoding lacks."""
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    return "".join({"±": "+-", "°": "deg"}.get(character, "?") for character in lacking), error.end


codecs.register_error("plain", _plain)


class Progress(tqdm):
    """tqdm on standard error, by the first process: a bar on a terminal, elsewhere a line every few units.

    Args:
      title: what is being done.
      total: number of units.
      done: units done before (a run that resumes).
      unit: name of a unit.
      every: units between two lines, where there is no terminal.
    """

    monitor_interval = 0  # no thread beside it
    shown = True

    def __init__(self, title: str, total: int, *, done: int = 0, unit: str = "step", every: int = 100) -> None:
        shared: dict[str, Any] = {"desc": title, "total": total, "initial": done, "unit": unit}
        shared["disable"] = not (first_process() and Progress.shown)
        self._lines, self._shown = not sys.stderr.isatty(), -1
        if self._lines:  # tqdm's own output, which returns to the start of the line, goes nowhere
            form = "{desc}: {n_fmt}/{total_fmt} {unit}s, {remaining} left{postfix}"
            super().__init__(**shared, file=io.StringIO(), miniters=every, mininterval=0, bar_format=form)
        else:
            super().__init__(**shared, dynamic_ncols=True)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Shows how far it is, as a line where there is no terminal."""
        if not self._lines:
            super().display(msg, pos)
        elif self.n != self._shown:
            self._shown = self.n
            say(str(self), sys.stderr)

    def advance(self, n: int = 1, note: str = "") -> None:
        """`n` more units are done; `note` is shown beside the bar, or in the next line."""
        if note:
            self.set_postfix_str(note, refresh=False)
        self.update(n)

    def say(self, line: str) -> None:
        """A line that does not break the bar."""
        if not self.disable:
            self.write(line, file=sys.stderr)


@contextlib.contextmanager
def quiet(is_quiet: bool = True) -> Iterator[None]:
    """Nothing is shown of what goes on in the block."""
    before, Progress.shown = Progress.shown, Progress.shown and not is_quiet
    try:
        yield
    finally:
        Progress.shown = before
