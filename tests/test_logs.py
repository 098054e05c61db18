"""What a run says: rows by step, no row twice, and progress where there is no terminal."""

import io
import sys

import pytest

from avae.runtime import progress as logs
from avae.training import watch
from avae.training.watch import Writer, read_metrics


def test_rows_come_back_and_a_run_that_resumes_drops_what_it_runs_again(tmp_path):
    with Writer(tmp_path) as writer:
        for step in (10, 20, 30):
            writer.scalars(step, {"loss": float(step)})
    with Writer(tmp_path, step=20) as writer:  # resumes after step 20: 21 and later are run again
        writer.scalars(30, {"loss": -1.0})
    rows = read_metrics(tmp_path)
    assert [row["step"] for row in rows] == [10, 20, 30]
    assert rows[-1] == {"step": 30, "loss": -1.0}


def test_a_line_cut_short_by_a_kill_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 2.0}]
    assert read_metrics(tmp_path / "nothing") == []


def test_tensorboard_is_written_where_it_is_installed_and_not_missed_where_it_is_not(tmp_path, monkeypatch):
    (tmp_path / "with").mkdir()
    with Writer(tmp_path / "with") as writer:
        writer.scalars(1, {"loss": 1.0})
    assert list((tmp_path / "with" / "tensorboard").glob("events.*"))
    monkeypatch.setattr(watch, "SummaryWriter", None)
    (tmp_path / "without").mkdir()
    with Writer(tmp_path / "without") as writer:
        writer.scalars(1, {"loss": 1.0})
    assert not (tmp_path / "without" / "tensorboard").exists()
    assert read_metrics(tmp_path / "without") == [{"step": 1, "loss": 1.0}]


@pytest.mark.parametrize("stopped", [5, 6])
def test_lines_with_time_to_go_where_there_is_no_terminal(monkeypatch, stopped):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with logs.Progress("work", 6, unit="image", every=2) as progress:
        progress.say("a line")
        for _ in range(stopped):
            progress.advance(note="fine")
    written = sys.stderr.getvalue()
    assert "\r" not in written
    lines = written.splitlines()
    assert lines[:2] == ["work: 0/6 images, ? left", "a line"]
    assert lines[2:4] == [f"work: {done}/6 images, 00:00 left, fine" for done in (2, 4)]
    assert lines[4].startswith(f"work: {stopped}/6 images")
    assert len(lines) == 5


def test_processes_but_the_first_say_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(logs, "first_process", lambda: False)
    with logs.Progress("work", 2, done=1, every=1) as progress:
        progress.say("a line")
        progress.advance(note="fine")
    assert sys.stderr.getvalue() == ""


def test_a_bar_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    with logs.Progress("work", 2) as progress:
        progress.advance(note="half")
        progress.say("a line")
        progress.advance()
    assert "2/2" in sys.stderr.getvalue()
    assert "a line" in sys.stderr.getvalue()


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [("ascii", "1 +- 2 ?: ???\n"), ("latin-1", "1 ± 2 ?: ???\n"), ("utf-8", "1 ± 2 ?: 数据集\n")],
)
def test_any_text_is_printed_in_any_encoding(encoding, expected):
    text = "1 ± 2 \udcff: 数据集"  # the second is a byte of a path that is no UTF-8
    stream = io.TextIOWrapper(raw := io.BytesIO(), encoding=encoding)
    logs.say(text, stream)
    printed = raw.getvalue().decode(encoding)
    assert printed == expected
