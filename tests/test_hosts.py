"""Two processes of two devices each on loopback: the run of one process with four, also if one of them is killed."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from avae.runtime import devices
from avae.training.watch import read_metrics

pytestmark = pytest.mark.process
ROOT = pathlib.Path(__file__).parent.parent
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
LIMIT = 240  # seconds, of everything that is waited for


def start(workdir, processes, fakes, folders=None, **environment):
    """The processes of one run, all in `workdir` or each in a folder of its own; each writes to a log of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={fakes} {QUICK}",
        "PYTHONPATH": str(ROOT),
        **environment,
    }
    workdir.mkdir(exist_ok=True)
    run = []
    for process in range(processes):
        folder = folders[process] if folders else workdir
        command = [sys.executable, "tests/on_many_hosts.py", folder, port, processes, process]
        with (workdir / f"log{process}").open("w") as log:
            run.append(subprocess.Popen(list(map(str, command)), cwd=ROOT, env=settings, stdout=log, stderr=log))
    return run


def finish(run):
    """The exit codes of the processes; none of them outlives this."""
    deadline = time.monotonic() + LIMIT
    try:
        return [process.wait(timeout=max(1.0, deadline - time.monotonic())) for process in run]
    finally:
        for process in run:
            process.kill()
            process.wait()


def wait_for_checkpoint(run, workdir, step):
    deadline = time.monotonic() + LIMIT
    while not (workdir / "checkpoints" / str(step)).exists():
        assert all(process.poll() is None for process in run), (workdir / "log0").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def weights(workdir):
    with np.load(workdir / "weights.npz") as arrays:
        return np.concatenate([arrays[name].ravel() for name in arrays.files])


def losses(workdir):
    return [row["loss"] for row in read_metrics(workdir) if "loss" in row]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process with four devices."""
    workdir = tmp_path_factory.mktemp("alone")
    assert finish(start(workdir, 1, 4)) == [0], (workdir / "log0").read_text()
    return workdir


def assert_same_run(workdir, alone):
    assert len(losses(workdir)) == 20
    np.testing.assert_allclose(losses(workdir), losses(alone), rtol=1e-6)
    assert np.linalg.norm(weights(workdir) - weights(alone)) < 1e-5 * np.linalg.norm(weights(alone))


def test_one_of_two_is_killed_and_both_started_again_end_as_one_process_does(alone, tmp_path):
    run = start(tmp_path, 2, 2, AVAE_SLOW="0.2")
    wait_for_checkpoint(run, tmp_path, 8)
    run[1].kill()
    codes = finish(run)
    assert codes[0] not in (0, None)  # it does not go on alone, and does not hang
    run = start(tmp_path, 2, 2)
    assert finish(run) == [0, 0], (tmp_path / "log0").read_text()
    assert "resuming after step" in (tmp_path / "log0").read_text()
    assert "steps" not in (tmp_path / "log1").read_text()  # only the first process speaks
    assert_same_run(tmp_path, alone)


def damage(checkpoint):
    for path in checkpoint.rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(path.read_bytes()[:10])


@pytest.mark.slow  # two more starts of two processes each; run with `python -m pytest -m slow tests/test_hosts.py`
@pytest.mark.parametrize("harm", [damage, shutil.rmtree], ids=["damaged", "gone"])
def test_a_checkpoint_that_one_of_two_cannot_read_is_passed_over_by_both(alone, tmp_path, harm):
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        shutil.copytree(alone, folder)
    harm(folders[1] / "checkpoints" / "20")
    run = start(tmp_path, 2, 2, folders, AVAE_READ="1")
    assert finish(run) == [0, 0], (tmp_path / "log0").read_text()
    first, second = ((tmp_path / f"log{process}").read_text() for process in range(2))
    assert "checkpoint 20 cannot be read (by another process); it is passed over" in first
    assert "checkpoint 20 cannot be read (" in second
    going_on = [log[log.index("goes on after step 16") :].splitlines()[0] for log in (first, second)]
    assert going_on[0] == going_on[1]  # with the same weights


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("nowhere", 2, 0), "coordinator: expected host:port of process 0, got 'nowhere'"),
        (("localhost:1", 2, 2), "process_id: expected 0 to 1 of 2 processes, got 2"),
        ((None, 2, 0), "could not be joined"),  # no cluster says where process 0 is, or JAX is in use already
    ],
)
def test_processes_that_cannot_find_each_other_are_a_sentence(given, message):
    with pytest.raises(ValueError, match=message):
        devices.join(*given)


def test_where_the_first_process_cannot_go_on_no_other_does(monkeypatch):
    called = []
    devices.in_first_process(lambda: called.append(1))
    assert called == [1]
    with pytest.raises(ZeroDivisionError):
        devices.in_first_process(lambda: 1 / 0)
    monkeypatch.setattr(devices, "first_process", lambda: False)
    devices.in_first_process(lambda: called.append(2))
    assert called == [1]
    monkeypatch.setattr(devices, "all_agree", lambda ok: False)  # as the first says
    with pytest.raises(devices.Mistake, match="the first process could not go on; its message says why"):
        devices.in_first_process(lambda: called.append(3))


def test_numbers_in_the_environment_are_checked(monkeypatch):
    monkeypatch.setenv("AVAE_NUM_PROCESSES", "two")
    with pytest.raises(ValueError, match="AVAE_NUM_PROCESSES: expected a whole number, got 'two'"):
        devices.join("localhost:1")


@pytest.mark.slow  # two more starts of two processes; run with `python -m pytest -m slow tests/test_hosts.py`
def test_a_signal_to_one_of_two_stops_and_saves_both(alone, tmp_path):
    run = start(tmp_path, 2, 2, AVAE_SLOW="0.2")
    wait_for_checkpoint(run, tmp_path, 4)
    asked = time.monotonic()
    run[1].send_signal(signal.SIGTERM)
    assert finish(run) == [128 + signal.SIGTERM] * 2, (tmp_path / "log0").read_text()
    assert time.monotonic() - asked < 30
    saved = max(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert f"stopped by SIGTERM after step {saved}, saved in" in (tmp_path / "log1").read_text()
    assert finish(start(tmp_path, 2, 2)) == [0, 0], (tmp_path / "log0").read_text()
    assert_same_run(tmp_path, alone)
