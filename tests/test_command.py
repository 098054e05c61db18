"""The commands: whatever stops one, it ends in a sentence and an exit code; only a bug keeps its traceback."""

import errno
import importlib
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import pytest
from test_long_runs import TINY
from test_train import ROOT

import avae
import eval as eval_command
import train as train_command
from avae import command, run
from avae.training import checkpoint, loop
from avae.training.watch import Diverged

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections

ENVIRONMENT = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}


def flags(changes, workdir):
    given = [f"--config.{name}={value}" for name, value in changes.items()]
    return ["train.py", f"--config={ROOT}/configs/rot_mnist.py", f"--workdir={workdir}", *given]


def ended(call, capfd):
    """The exit code and the sentence of a command that ends."""
    with pytest.raises(SystemExit) as end:
        call()
    return end.value.code, capfd.readouterr().err


def raising(error):
    def call(*_, **__):
        raise error

    return call


# --- mistakes and bugs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (avae.Mistake("train.epochs: expected more"), "error: train.epochs: expected more"),
        (Diverged("step 3: loss not finite"), "error: step 3: loss not finite"),
        (checkpoint.NotSaved("checkpoint 8 could not be written"), "error: checkpoint 8 could not be written"),
        (OSError(errno.ENOSPC, "No space left on device"), "error: [Errno 28] No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "error: [Errno 13] Permission denied: 'x'"),
        (OSError(errno.EROFS, "Read-only file system"), "error: [Errno 30] Read-only file system"),
    ],
)
def test_what_the_user_can_mend_is_a_sentence(error, sentence, capfd):
    def call():
        with command.sentences():
            raise error

    assert ended(call, capfd) == (1, sentence + "\n")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("Incompatible shapes for broadcasting"),
        TypeError("dot_general requires"),
        FloatingPointError("invalid value (nan) encountered in jit(f)"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "x"),
        OSError("image file is truncated"),
    ],
)
def test_a_bug_keeps_its_traceback(error):
    with pytest.raises(type(error)) as caught, command.sentences():
        raise error
    assert caught.value is error


def test_the_mistake_in_a_config_s_place_is_named(tmp_path, capfd):
    code, sentence = ended(lambda: train_command.main(["train.py", f"--config={tmp_path}/nowhere.py"]), capfd)
    assert (code, "--config: expected a file" in sentence) == (1, True)
    code, sentence = ended(lambda: train_command.main(["train.py"]), capfd)
    assert (code, sentence) == (1, "error: --config is missing; try --config=configs/rot_mnist.py\n")
    code, sentence = ended(lambda: eval_command.main(["eval.py"]), capfd)
    assert (code, sentence) == (1, "error: --workdir is missing; try --workdir=runs/rot_mnist\n")


@pytest.mark.parametrize("module", [train_command, eval_command])
def test_help_tells_of_the_flags(module, capfd):
    with pytest.raises(SystemExit) as end:
        module.main([module.__file__, "--help"])
    assert not end.value.code
    assert "--workdir" in capfd.readouterr().out


# --- stopped in any phase -------------------------------------------------------------------------------------------

PHASES = {
    "data": (loop.data, "load"),
    "checkpoints": (checkpoint.Checkpoints, "restore"),
    "baseline": (run, "plain_vae"),
    "evaluation": (run, "evaluate"),
    "report": (run.page, "write"),
}
ONE_EPOCH = TINY | {"train.epochs": 1, "evaluation.n_bound": 0, "evaluation.draws": 1, "evaluation.n_angles": 4}
SHORT = {name: value for name, value in ONE_EPOCH.items() if name != "train.search.enabled"} | {
    "train.search.n_starts": 4, "train.search.n_steps": 0, "search.n_starts": 4,
}  # fmt: skip


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_every_phase_in_a_sentence(phase, signum, tmp_path, monkeypatch, capfd):
    def stopped(*_, **__):
        os.kill(os.getpid(), signum)
        time.sleep(10)

    monkeypatch.setattr(*PHASES[phase], stopped)
    monkeypatch.setattr(run, "fit_config", run.fit_config if phase in ("data", "checkpoints") else lambda *_: None)
    monkeypatch.setattr(run, "load", lambda *_, **__: None)
    monkeypatch.setattr(run.run_folder, "load_experiment", lambda *_: run.experiment(described(tmp_path)))
    if phase == "report":
        monkeypatch.setattr(run, "evaluate", lambda *_, **__: types.SimpleNamespace(numbers={"floor": None}))
        monkeypatch.setattr(run, "as_text", lambda numbers: "the numbers")
    before = signal.getsignal(signum)
    code, sentence = ended(lambda: train_command.main(flags(SHORT, tmp_path / "run")), capfd)
    assert code == 128 + signum
    assert f"stopped by {signum.name}; start again to go on" in sentence
    assert "Traceback" not in sentence
    assert signal.getsignal(signum) is before


def described(folder):
    config = avae.config.default()
    config.update_from_flattened_dict(SHORT)
    return config


@pytest.mark.parametrize("phase", ["data", "checkpoints", "evaluation", "report"])
def test_a_full_disk_ends_every_phase_in_a_sentence(phase, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(*PHASES[phase], raising(OSError(errno.ENOSPC, "No space left on device")))
    monkeypatch.setattr(run, "fit_config", run.fit_config if phase in ("data", "checkpoints") else lambda *_: None)
    monkeypatch.setattr(run, "load", lambda *_, **__: None)
    monkeypatch.setattr(run.run_folder, "load_experiment", lambda *_: run.experiment(described(tmp_path)))
    if phase == "report":
        monkeypatch.setattr(run, "evaluate", lambda *_, **__: types.SimpleNamespace(numbers={"floor": None}))
        monkeypatch.setattr(run, "as_text", lambda numbers: "the numbers")
    code, sentence = ended(lambda: train_command.main(flags(SHORT, tmp_path / "run")), capfd)
    assert (code, sentence.splitlines()[-1]) == (1, "error: [Errno 28] No space left on device")


def test_a_signal_that_comes_while_a_destructor_runs_is_not_lost(capfd):
    class Destroyed:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)  # where Python drops what the handler raises

    def call():
        with command.sentences():
            del [Destroyed()][0]
            time.sleep(10)

    assert ended(call, capfd) == (128 + signal.SIGTERM, "stopped by SIGTERM; start again to go on\n")


BUSY = """
import os, signal, sys, threading, time
from avae import command

def main(argv):
    with command.sentences():
        threading.Thread(target=time.sleep, args=(60,)).start()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

command.script(main)
"""


@pytest.mark.process
def test_a_signal_does_not_wait_for_other_threads():
    done = subprocess.run(
        [sys.executable, "-c", BUSY], cwd=ROOT, env=ENVIRONMENT, text=True, capture_output=True, check=False, timeout=50
    )
    assert (done.returncode, done.stderr) == (128 + signal.SIGTERM, "stopped by SIGTERM; start again to go on\n")


@pytest.mark.process
def test_a_signal_while_the_first_step_compiles_saves_it(tmp_path, compiled):
    process = subprocess.Popen(
        [sys.executable, *flags(TINY | {"train.epochs": 1000}, tmp_path)], cwd=ROOT, env=ENVIRONMENT | compiled,
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    for line in process.stdout:
        if "compiling the first step" in line:
            break
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT, output
    assert "stopped by SIGINT after step" in output
    assert "Traceback" not in output


# --- standard streams -----------------------------------------------------------------------------------------------

PRINT = """
import sys
from avae import command
with command.sentences():
    print("90\\u00b0", file=getattr(sys, sys.argv[1]), flush=sys.argv[2] == "now")
"""


@pytest.mark.process
@pytest.mark.parametrize("flush", ["now", "later"])
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_closed_pipe_is_a_sentence_where_there_is_a_place_for_one(stream, flush):
    end, pipe = os.pipe()
    os.close(end)
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE} | {stream: pipe}
    done = subprocess.run(
        [sys.executable, "-c", PRINT, stream, flush], cwd=ROOT, env=ENVIRONMENT, text=True, check=False, **streams
    )
    os.close(pipe)
    assert done.returncode == 128 + signal.SIGPIPE
    if stream == "stdout":
        assert done.stderr == "error: the reader of standard output or standard error is gone (closed pipe)\n"


@pytest.mark.process
def test_an_ascii_output_takes_what_it_can():
    ascii_ = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "POSIX", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-c", PRINT, "stdout", "later"], cwd=ROOT, env=ENVIRONMENT | ascii_, text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "90?\n", "")


# --- a notebook -----------------------------------------------------------------------------------------------------


def test_a_config_of_ones_own_data_says_what_it_needs(capfd):
    code, sentence = ended(lambda: train_command.main(["train.py", f"--config={ROOT / 'configs' / 'own.py'}"]), capfd)
    assert code == 1
    assert sentence.startswith("error: --config: expected the data behind a colon")


def test_a_command_runs_twice_in_one_process_and_forgets_the_flags_of_the_first_time(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(train_command, "run", lambda config, workdir: seen.append((config.train.epochs, workdir)))
    train_command.main(flags({"train.epochs": 3}, tmp_path))
    train_command.main(["train.py", f"--config={ROOT}/configs/rot_mnist.py"])
    assert seen == [(3, str(tmp_path)), (30, pathlib.Path("runs/rot_mnist"))]
    importlib.reload(train_command)
    importlib.reload(eval_command)


LOGGED = """
import logging, sys
import avae
from avae.config import default
from avae import run
assert not logging.root.handlers, logging.root.handlers
config = default()
config.update_from_flattened_dict(eval(sys.argv[2]))
run.fit_config(config, sys.argv[1])
avae.load(sys.argv[1])
logging.basicConfig(level=logging.INFO, filename=sys.argv[1] + "/log.txt")
logging.info("hello")
"""


@pytest.mark.process
def test_the_root_logger_is_the_user_s(tmp_path, compiled):
    command_ = [sys.executable, "-c", LOGGED, str(tmp_path), repr(TINY | {"train.epochs": 1})]
    subprocess.run(command_, cwd=ROOT, env=ENVIRONMENT | compiled, check=True, capture_output=True)
    assert "hello" in (tmp_path / "log.txt").read_text()
