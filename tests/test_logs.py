"""What a run says: rows by step, no row twice, and progress where there is no terminal."""

import io
import sys

import pytest

from avae.runtime.progress import Progress, _clock
from avae.training import watch as logs


def test_rows_come_back_and_a_run_that_resumes_drops_what_it_runs_again(tmp_path):
    with logs.Writer(tmp_path) as writer:
        for step in (10, 20, 30):
            writer.scalars(step, {"loss": float(step)})
    with logs.Writer(tmp_path, step=20) as writer:  # resumes after step 20: 21 and later are run again
        writer.scalars(30, {"loss": -1.0})
    rows = logs.read_metrics(tmp_path)
    assert [row["step"] for row in rows] == [10, 20, 30]
    assert rows[-1] == {"step": 30, "loss": -1.0}


def test_a_line_cut_short_by_a_kill_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert logs.read_metrics(tmp_path) == [{"step": 1, "loss": 2.0}]
    assert logs.read_metrics(tmp_path / "nothing") == []


def test_tensorboard_is_written_where_it_is_installed_and_not_missed_where_it_is_not(tmp_path, monkeypatch):
    (tmp_path / "with").mkdir()
    with logs.Writer(tmp_path / "with") as writer:
        writer.scalars(1, {"loss": 1.0})
    assert list((tmp_path / "with" / "tensorboard").glob("events.*"))
    monkeypatch.setattr(logs, "SummaryWriter", None)
    (tmp_path / "without").mkdir()
    with logs.Writer(tmp_path / "without") as writer:
        writer.scalars(1, {"loss": 1.0})
    assert not (tmp_path / "without" / "tensorboard").exists()
    assert logs.read_metrics(tmp_path / "without") == [{"step": 1, "loss": 1.0}]


def test_lines_with_time_to_go_where_there_is_no_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with Progress("work", 6, unit="image", every=2) as progress:
        for _ in range(6):
            progress.advance(note="fine")
    lines = sys.stderr.getvalue().splitlines()
    assert lines[0] == "work: 6 of 6 images to go"
    assert lines[1] == "work: 1/6 images | fine"  # no time to go yet: the first unit holds the compilation
    assert lines[2:] == [f"work: {done}/6 images, 0:00 left | fine" for done in (2, 4, 6)]


def test_a_bar_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress("work", 2) as progress:
        progress.advance(note="half")
        progress.say("a line")
        progress.advance()
    assert "2/2" in sys.stderr.getvalue()
    assert "a line" in sys.stderr.getvalue()


@pytest.mark.parametrize(("seconds", "shown"), [(0.4, "0:00"), (61, "1:01"), (3661, "1:01:01")])
def test_clock(seconds, shown):
    assert _clock(seconds) == shown
