"""The folder of a run: who trains in it, who only reads, when it is claimed, and the data it belongs to."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys

import chex
import jax
import numpy as np
import pytest
from test_long_runs import steps_saved, tiny
from test_train import ROOT

import avae
from avae import run
from avae.config import experiment
from avae.data import dataset
from avae.training import checkpoint, loop, run_folder, step as training

ENVIRONMENT = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}


def stack(path, seed=0, scale=1.0):
    """A stack of 96 images at `path`, and a short config of a run on it."""
    np.save(path, scale * np.random.default_rng(seed).random((96, 12, 12)))
    return tiny(**{"data.name": str(path), "data.n_test": 32, "model.image_shape": (12, 12, 1)})


def tree(folder):
    """Everything below a folder, with when it was last written."""
    return {str(path): path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


def fit_six_steps(config, workdir):
    """The beginning of a run, which is told to stop after its sixth step as if by a signal."""

    def stop():
        return contextlib.nullcontext(lambda step: 15 if step == 5 else None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "stop_signal", stop)
        with pytest.raises(loop.Interrupted):
            run.fit_config(config, workdir)


# --- readers --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained")
    return run.fit_config(tiny(**{"train.keep_last": 3}), workdir), workdir


def test_reading_writes_nothing(trained):
    params, workdir = trained
    (workdir / "checkpoints" / "24.orbax-checkpoint-tmp").mkdir(exist_ok=True)  # as of a job that is saving
    before = tree(workdir)
    chex.assert_trees_all_equal(avae.load(workdir).weights, params.weights)
    avae.load(workdir, best=True)
    assert [step for step, _ in checkpoint.load_all(workdir)][-1] == 20
    assert tree(workdir) == before


def test_reading_creates_no_folder_of_checkpoints(tmp_path):
    run_folder.claim(tmp_path, tiny())
    before = tree(tmp_path)
    with pytest.raises(avae.Mistake, match="has not saved a checkpoint yet"):
        avae.load(tmp_path)
    assert list(checkpoint.load_all(tmp_path)) == []
    assert tree(tmp_path) == before


READ = """
import pathlib, sys
import jax
import avae
workdir, loaded = pathlib.Path(sys.argv[1]), 0
while not (workdir / "done").exists():
    weights = jax.device_get(avae.load(workdir, best=loaded % 2 == 1).weights)
    loaded += 1
    print(loaded, float(sum(abs(leaf).sum() for leaf in jax.tree.leaves(weights))), flush=True)
"""


@pytest.mark.process
def test_a_run_is_loaded_again_and_again_while_it_saves(tmp_path, compiled):
    """The reader neither removes what is being written, nor minds that what it has listed is removed."""
    run_folder.claim(tmp_path, tiny())
    state = training.init_state(experiment(tiny()))
    size = sum(float(np.abs(leaf).sum()) for leaf in jax.tree.leaves(jax.device_get(state.params.weights)))
    with checkpoint.Checkpoints(tmp_path, 2, 1) as checkpoints:
        checkpoints.save(state, 0.0)
        checkpoints.wait()
        reader = subprocess.Popen(
            [sys.executable, "-c", READ, str(tmp_path)], cwd=ROOT, env=ENVIRONMENT | compiled,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            first = reader.stdout.readline()
            assert first.startswith("1 "), first
            for step in range(1, 31):
                checkpoints.save(state.replace(step=state.step + step), -float(step))
        finally:
            checkpoints.wait()
            (tmp_path / "done").touch()
            output = first + reader.communicate(timeout=120)[0]
    assert reader.returncode == 0, output
    assert steps_saved(tmp_path) == [29, 30]
    loads = [line.split() for line in output.splitlines() if line[0].isdigit()]
    assert len(loads) > 3
    np.testing.assert_allclose([float(weights) for _, weights in loads], size, rtol=1e-6)


@pytest.mark.parametrize("kind", [str, pathlib.Path, lambda path: pathlib.PurePosixPath(path)])
def test_a_run_is_loaded_by_any_kind_of_path(trained, kind):
    avae.load(kind(trained[1]))


def test_a_tilde_is_the_home_folder_for_writers_and_readers(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    run.fit_config(tiny(**{"train.epochs": 1}), "~/runs/x")
    avae.load("~/runs/x")
    run_folder.load_experiment("~/runs/x")
    assert next(checkpoint.load_all("~/runs/x"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]


def test_where_no_run_is_the_runs_nearby_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    run_folder.claim(tmp_path / "runs" / "digits", tiny())
    for folder, message in (
        (tmp_path / "nowhere", r"nowhere: no run here \(no such folder\); train one"),
        (tmp_path / "empty", r"empty: no run here \(no config.json\); train one"),
        (tmp_path / "runs", r"no run here \(no config.json\); there are runs in .*digits;"),
    ):
        with pytest.raises(avae.Mistake, match=message):
            avae.load(folder)


# --- one job in a folder --------------------------------------------------------------------------------------------


def test_a_second_job_is_told_who_trains_in_the_folder(tmp_path):
    config = tiny(**{"train.epochs": 1})
    with run_folder.held(tmp_path), pytest.raises(avae.Mistake, match=rf"process {os.getpid()} on .* is at work in"):
        run.fit_config(config, tmp_path)
    assert not (tmp_path / "config.json").exists()
    run.fit_config(config, tmp_path)
    with run_folder.held(tmp_path):  # the run let go of it
        avae.load(tmp_path)  # a reader does not ask


HOLD = """
import pathlib, sys, time
from avae.training import run_folder
with run_folder.held(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.process
def test_the_folder_of_a_job_that_was_killed_is_free(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    job = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    try:
        assert job.stdout.readline() == "held\n"
        with pytest.raises(avae.Mistake, match=f"process {job.pid} on"), run_folder.held(tmp_path):
            pass
    finally:
        job.kill()
        job.communicate()
    with run_folder.held(tmp_path):
        pass


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(run_folder.fcntl, "flock", no_locks)
    with run_folder.held(tmp_path):
        pass


def test_a_file_where_the_folder_should_be_is_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    for workdir in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(avae.Mistake, match="--workdir: expected a folder, but there is a file at"):
            run.fit_config(tiny(), workdir)


# --- when a folder is claimed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "scale", "message"),
    [
        ({"data.n_train": 4500}, 1, "at most"),
        ({"train.batch_size": 80}, 1, "at most the 64 training examples, got 80"),
        ({}, 255, r"training images of .*"),
    ],
)
def test_a_command_with_a_mistake_leaves_no_trace(tmp_path, changes, scale, message):
    config = stack(tmp_path / "x.npy", scale=scale)
    config.update_from_flattened_dict(changes)
    with pytest.raises(avae.Mistake, match=message):
        run.fit_config(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    run.fit_config(stack(tmp_path / "x.npy"), tmp_path / "run")  # the command without the mistake


def test_a_first_batch_that_cannot_be_read_claims_nothing(tmp_path, monkeypatch):
    def unreadable(*_):
        raise avae.Mistake("a damaged image")

    config = stack(tmp_path / "x.npy")
    with monkeypatch.context() as patch:
        patch.setattr(dataset.devices, "take", unreadable)
        with pytest.raises(avae.Mistake, match="a damaged image"):
            run.fit_config(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_test_images_are_looked_at_before_the_first_step(tmp_path):
    rng = np.random.default_rng(0)
    images = {"train_images": rng.random((64, 12, 12)), "test_images": 255 * rng.random((32, 12, 12))}
    np.savez(tmp_path / "x.npz", **images)
    config = stack(tmp_path / "x.npy")
    config.data.name = str(tmp_path / "x.npz")
    with pytest.raises(avae.Mistake, match="test images of"):
        run.fit_config(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def searched(**changes):
    """A run with search, whose baseline is trained after it."""
    small = {"train.search.enabled": True, "train.search.n_starts": 8, "evaluation.baseline_epochs": 1}
    return tiny(**(small | changes))


def test_a_baseline_that_cannot_go_on_is_refused_before_the_run_is_trained(tmp_path):
    run_folder.claim(tmp_path / "baseline", run.plain_vae(searched()))
    with pytest.raises(avae.Mistake, match=r"evaluation.baseline_epochs: .*\(train.epochs: 1 there, 2 here\)"):
        run.run(searched(**{"evaluation.baseline_epochs": 2}), tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_a_run_of_another_config_is_refused_before_its_data_are_read(tmp_path, monkeypatch):
    run_folder.claim(tmp_path, tiny())
    monkeypatch.setattr(loop.data, "load", lambda _: pytest.fail("the data were read"))
    with pytest.raises(avae.Mistake, match=r"model.latent: 2 there, 4 here"):
        run.fit_config(tiny(**{"model.latent": 4}), tmp_path)


# --- the data of a run ----------------------------------------------------------------------------------------------


def test_a_run_does_not_go_on_with_other_data(tmp_path):
    config, workdir = stack(tmp_path / "x.npy"), tmp_path / "run"
    fit_six_steps(config, workdir)
    stack(tmp_path / "x.npy", seed=1)
    with pytest.raises(avae.Mistake, match=r"is not what the run in .* was trained on.*data.json"):
        run.fit_config(config, workdir)
    with pytest.raises(avae.Mistake, match="was trained on"):
        run.report(workdir)
    with pytest.raises(avae.Mistake, match="was trained on"):
        run.draw_history(workdir)
    stack(tmp_path / "x.npy")
    run.fit_config(config, workdir)
    assert steps_saved(workdir)[-1] == 20


def test_a_run_goes_on_with_data_that_were_moved(tmp_path):
    workdir = tmp_path / "run"
    fit_six_steps(stack(tmp_path / "x.npy"), workdir)
    (tmp_path / "x.npy").rename(tmp_path / "y.npy")
    run.fit_config(stack(tmp_path / "y.npy"), workdir)
    assert run_folder.load_experiment(workdir).data.name == str(tmp_path / "y.npy")


def test_an_older_run_takes_the_fingerprint_of_the_data_it_goes_on_with(tmp_path):
    config, workdir = stack(tmp_path / "x.npy"), tmp_path / "run"
    fit_six_steps(config, workdir)
    first = (workdir / "data.json").read_text()
    (workdir / "data.json").unlink()
    run_folder.check_data(workdir, experiment(config).data)
    assert not (workdir / "data.json").exists()
    run.fit_config(config, workdir)
    assert (workdir / "data.json").read_text() == first


def test_all_processes_wait_for_the_first_whether_or_not_they_see_what_it_writes(tmp_path, monkeypatch):
    """A process that comes later finds the file; it must meet the others all the same."""
    data, calls, real = experiment(stack(tmp_path / "x.npy")).data, [], run_folder.devices.in_first_process
    monkeypatch.setattr(run_folder.devices, "in_first_process", lambda action: (calls.append(action), real(action)))
    run_folder.keep_data(tmp_path, data)
    run_folder.keep_data(tmp_path, data)
    assert len(calls) == 2


def test_the_data_of_a_run_are_found_from_another_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    config, workdir = stack("x.npy"), tmp_path / "run"
    assert config.data.name == "x.npy"
    run.fit_config(config, workdir)
    run.fit_config(config, workdir)  # it is the same run
    monkeypatch.chdir(tmp_path / "elsewhere")
    described = run_folder.load_experiment(workdir)
    assert described.data.name == str(tmp_path / "here" / "x.npy")
    assert len(dataset.load(described.data).test.images) == 32
    (tmp_path / "here" / "x.npy").rename("moved.npy")
    moved = run_folder.load_experiment(workdir, "moved.npy").data
    run_folder.check_data(workdir, moved)
    assert len(dataset.load(moved).test.images) == 32


def test_embedded_data_keep_their_name(trained):
    assert json.loads((trained[1] / "config.json").read_text())["data"]["name"] == "digits"
    assert set(json.loads((trained[1] / "data.json").read_text())) == {"name", "fingerprint", "background"}


# --- metrics --------------------------------------------------------------------------------------------------------


def test_metrics_survive_a_start_that_dies_while_it_rewrites_them(trained, tmp_path, monkeypatch):
    """The rows are written again when a run goes on; whatever happens then, the old ones or the new ones are there."""
    workdir = trained[1]
    before = (workdir / "metrics.jsonl").read_text()
    assert before.count("\n") == 4
    open_ = pathlib.Path.open

    def dies(self, mode="r", *args, **kwargs):
        if "w" in mode:
            open_(self, mode, *args, **kwargs).close()  # truncates what is there
            raise OSError(28, "No space left on device")
        return open_(self, mode, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "open", dies)
        with pytest.raises(OSError, match="No space left"):
            loop.Writer(workdir, 20)
    assert (workdir / "metrics.jsonl").read_text() == before
