"""What a run says while it runs: progress and sentences for people, metrics.jsonl and TensorBoard for the run."""

import codecs
import io
import json
import os
import pathlib
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, TextIO

from tqdm import tqdm

from avae.runtime.devices import first_process

try:
    from tensorboardX import SummaryWriter
except ImportError:  # the extra "tensorboard" is not installed
    SummaryWriter = None


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

    def __init__(self, title: str, total: int, *, done: int = 0, unit: str = "step", every: int = 100) -> None:
        shared: dict[str, Any] = {"desc": title, "total": total, "initial": done, "unit": unit}
        shared["disable"] = not first_process()
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


class Writer:
    """Scalars by step, to `workdir/metrics.jsonl` (one JSON object a line) and to TensorBoard where installed.

    A run that resumes after `step` drops what was logged later: those steps are run again.
    """

    def __init__(self, workdir: pathlib.Path, step: int = 0) -> None:
        first = first_process()  # the others write nothing
        path = workdir / "metrics.jsonl" if first else pathlib.Path(os.devnull)
        kept = [row for row in read_metrics(workdir) if row["step"] <= step]
        path.write_text("".join(json.dumps(row) + "\n" for row in kept))
        self._file = path.open("a", buffering=1)
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

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
        if self._board:
            self._board.close()


def read_metrics(workdir: pathlib.Path) -> list[dict[str, float]]:
    """The rows of `workdir/metrics.jsonl`; a last line cut short by a kill is left out."""
    path = workdir / "metrics.jsonl"
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
