"""Runs that last: the best checkpoint, a full disk, averaged weights, accumulation, precision, what is logged."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from soak import soak
from test_train import ROOT, fit

import avae
from avae.config import default, experiment
from avae.training import checkpoint, loop, step as training
from avae.training.loop import Interrupted, stop_signal
from avae.training.watch import Watch, Writer, read_metrics

TINY = {
    "data.n_train": 64,
    "data.n_test": 8,
    "data.pose": "upright",
    "model.hidden": (8,),
    "model.latent": 2,
    "train.search.enabled": False,
    "train.batch_size": 16,
    "train.epochs": 5,  # 20 steps
    "train.warmup_steps": 2,
    "train.checkpoint_every": 4,
    "train.log_every": 5,
}


def tiny(**changes):
    config = default()
    config.update_from_flattened_dict(TINY | changes)
    return config


def steps_saved(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())


# --- checkpoints ----------------------------------------------------------------------------------------------------


def test_the_newest_and_the_best_are_kept_and_loaded(tmp_path, monkeypatch):
    losses = iter([5.0, 1.0, 4.0, 3.0, 2.0])  # before steps 4, 8, ... 20
    monkeypatch.setattr(loop.Watch, "mean_loss", lambda self: next(losses))
    seen, save = {}, checkpoint.Checkpoints.save
    monkeypatch.setattr(
        checkpoint.Checkpoints,
        "save",
        lambda self, state, loss: (
            seen.update({int(state.step): jax.device_get(state.params.weights)}),
            save(self, state, loss),
        )[1],
    )
    fit(tiny(**{"train.keep_last": 2, "train.keep_best": 1}), tmp_path)
    assert steps_saved(tmp_path) == [8, 16, 20]
    chex.assert_trees_all_equal(avae.load(tmp_path).weights, seen[20])
    chex.assert_trees_all_equal(avae.load(tmp_path, best=True).weights, seen[8])


def test_without_best_only_the_newest_are_kept(tmp_path):
    fit(tiny(**{"train.keep_last": 1, "train.keep_best": 0}), tmp_path)
    assert steps_saved(tmp_path) == [20]


def test_the_loss_of_a_checkpoint_is_the_mean_since_the_one_before(tmp_path, monkeypatch):
    saved, save = [], checkpoint.Checkpoints.save
    monkeypatch.setattr(
        checkpoint.Checkpoints, "save", lambda self, state, loss: (saved.append(loss), save(self, state, loss))[1]
    )
    fit(tiny(**{"train.log_every": 1}), tmp_path)
    losses = [row["loss"] for row in read_metrics(tmp_path)]
    np.testing.assert_allclose(saved, np.reshape(losses, (5, 4)).mean(axis=1), rtol=1e-6)


FULL = """
import json, pathlib, resource, sys
sys.path.insert(0, "tests")
import test_long_runs as tests
workdir, changes = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
save = tests.checkpoint.Checkpoints.save

def fill_up(self, state, loss):  # from the second checkpoint on, no file may grow beyond 8 KiB
    if int(state.step) > 4:
        self.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
    save(self, state, loss)

tests.checkpoint.Checkpoints.save = fill_up
tests.fit(tests.tiny(**changes), workdir)
"""


@pytest.mark.process
def test_a_full_disk_is_a_sentence_and_the_last_good_state_is_kept(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path), json.dumps({"train.log_every": 100})],
        cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert re.search(
        r"NotSaved: checkpoint 8 could not be written \(.+\); the last good one, of step 4, is kept", done.stderr
    )
    assert steps_saved(tmp_path) == [4]
    again = fit(tiny(), tmp_path)
    chex.assert_trees_all_equal(again.weights, avae.load(tmp_path).weights)
    assert steps_saved(tmp_path)[-1] == 20


def test_a_signal_at_the_last_step_ends_the_command_too(tmp_path, monkeypatch):
    """What comes after the training, a baseline or an evaluation, may take hours."""
    with monkeypatch.context() as patch:
        patch.setattr(loop, "stop_signal", lambda: contextlib.nullcontext(lambda step: 15 if step == 19 else None))
        with pytest.raises(Interrupted, match="after step 20, saved in"):
            fit(tiny(), tmp_path)
    assert steps_saved(tmp_path)[-1] == 20
    chex.assert_trees_all_equal(fit(tiny(), tmp_path).weights, avae.load(tmp_path).weights)


def test_a_signal_after_the_last_step_is_passed_on():
    def signalled_late():
        with stop_signal() as stop:
            assert stop(0) is None
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        signalled_late()
    with stop_signal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop(0) == signal.SIGINT


# --- options of training --------------------------------------------------------------------------------------------


def test_the_running_average_is_what_is_evaluated_and_it_survives_a_stop(tmp_path, monkeypatch):
    config, decay, weights = tiny(**{"train.average": 0.8}), 0.8, []
    step = training.train_step

    def noted(*args, **kwargs):
        state, metrics = step(*args, **kwargs)
        weights.append(jax.device_get(state.params.weights))
        return state, metrics

    monkeypatch.setattr(loop, "train_step", noted)
    monkeypatch.setattr(loop, "stop_signal", lambda: contextlib.nullcontext(lambda step: 15 if step == 9 else None))
    with pytest.raises(Interrupted):
        fit(config, tmp_path)
    monkeypatch.setattr(loop, "stop_signal", stop_signal)
    result = fit(config, tmp_path)
    assert len(weights) == 20
    shares = decay ** np.arange(19, -1, -1)
    expected = jax.tree.map(lambda *leaves: np.tensordot(shares / shares.sum(), np.stack(leaves), axes=1), *weights)
    chex.assert_trees_all_close(result.weights, expected, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_equal(avae.load(tmp_path).weights, result.weights)
    assert not np.allclose(result.weights["encoder"]["Dense_0"]["kernel"], weights[-1]["encoder"]["Dense_0"]["kernel"])


def test_accumulated_steps_are_one_update_of_their_mean_gradient():
    """Two steps on the same images, latents at their draws, move the weights once, by the schedule of whole updates."""
    exp = experiment(tiny(**{"train.accumulate": 2, "train.warmup_steps": 0}))
    images = np.random.default_rng(0).random((16, 28, 28, 1), np.float32)
    state = training.init_state(exp)
    begin = jax.device_get(state.params.weights)
    state, _ = training.train_step(state, images, exp)
    chex.assert_trees_all_equal(jax.device_get(state.params.weights), begin)
    state, metrics = training.train_step(state, images, exp)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), jax.device_get(state.params.weights), begin)
    rate = float(training.schedule(exp)(0))
    assert rate / 2 < max(jax.tree.leaves(moved)) < 1.01 * rate  # Adam's first update has the size of the rate
    assert float(metrics["learning_rate"]) == pytest.approx(float(training.schedule(exp)(1)))


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 20), (2, 20), (3, 18), (64, 64)])
def test_a_run_is_whole_updates(accumulate, steps):
    exp = experiment(tiny(**{"train.accumulate": accumulate}))
    assert training.steps_per_run(exp.train, 64) == steps


def test_networks_in_bfloat16_and_all_else_in_float32():
    params = avae.init(jax.random.key(0), avae.MLP(image_shape=(12, 12, 1), hidden=(8,), latent=2))
    low = params.in_precision("bfloat16")
    assert low.weights is params.weights
    x = jnp.asarray(np.random.default_rng(0).random((2, 12, 12, 1), np.float32))
    mu = [p.model.encode(p.weights, x[0]).mu for p in (params, low)]
    assert mu[1].dtype == jnp.float32
    assert not np.array_equal(*mu)
    np.testing.assert_allclose(mu[1], mu[0], atol=0.05)
    text = str(jax.make_jaxpr(lambda z: low.model.networks.decode(low.weights, z))(jnp.zeros(2)))
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert products
    assert all("bf16" in line for line in products)
    assert params.in_precision("float32") is params


def test_training_in_bfloat16_keeps_float32_weights():
    exp = experiment(tiny(**{"train.precision": "bfloat16"}))
    images = np.random.default_rng(0).random((16, 28, 28, 1), np.float32)
    state, losses = training.init_state(exp), []
    for _ in range(15):
        state, metrics = training.train_step(state, images, exp)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.99 * losses[0]
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params.weights)} == {jnp.dtype("float32")}
    assert state.params.model == exp.model


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.accumulate": 0}, "train.accumulate: expected a whole number of at least 1, got 0"),
        ({"train.beta": -1.0}, r"train.beta: expected a finite weight of at least 0, got -1.0"),
        ({"train.beta": float("nan")}, r"train.beta: expected a finite weight of at least 0, got nan"),
        ({"train.average": 1.0}, r"train.average: expected a decay from 0 \(none\) to below 1, got 1.0"),
        ({"train.precision": "half"}, "train.precision: expected one of float32, bfloat16, got 'half'"),
        ({"train.keep_last": 0}, "train.keep_last: expected a whole number of at least 1, got 0"),
        ({"train.keep_best": -1}, "train.keep_best: expected a whole number of at least 0, got -1"),
    ],
)
def test_a_wrong_option_is_a_sentence(changes, message):
    with pytest.raises(ValueError, match=message):
        experiment(tiny(**changes))


# --- what is logged -------------------------------------------------------------------------------------------------


def test_a_row_says_how_fast_and_what_was_waited_for(tmp_path, capsys):
    fit(tiny(), tmp_path)
    rows, said = read_metrics(tmp_path), capsys.readouterr().err
    assert [row["step"] for row in rows] == [5, 10, 15, 20]
    assert all(row["images_per_second"] > 0 for row in rows)
    assert all(0 <= row["idle_share"] <= row["data_share"] <= 1 for row in rows)
    cpu = [row["cpu_seconds"] for row in rows]
    assert 0 < cpu[0] <= cpu[-1] == max(cpu)
    assert [("compile_seconds" in row) for row in rows] == [True, False, False, False]
    assert re.search(r"compiled the first step in \d+\.\d s", said)
    assert re.search(r"10/20 steps.*images/s, \d+\.\d% of the time in data", said)


def test_device_memory_is_said_where_the_backend_reports_it(tmp_path, capsys, monkeypatch):
    stats = {"peak_bytes_in_use": 3 * 2**30, "bytes_limit": 2**33}
    monkeypatch.setattr(jax, "local_devices", lambda: [types.SimpleNamespace(memory_stats=lambda: stats)])
    with Writer(tmp_path) as writer, Watch(experiment(tiny()).train, tmp_path, writer, 0, 5) as watch:
        for step in range(5):
            with watch.reading():
                pass
            watch.see(step, {"loss": jnp.ones(())})
        watch.settle()
    assert read_metrics(tmp_path)[-1]["device_memory"] == 3 * 2**30
    assert "3.0 GiB at most" in capsys.readouterr().err


def test_time_spent_on_a_batch_counts_as_waiting_only_if_the_device_was_done(tmp_path):
    with Writer(tmp_path) as writer, Watch(experiment(tiny()).train, tmp_path, writer, 0, 9) as watch:
        for ready in (False, True):
            watch._pending = (0, {"loss": types.SimpleNamespace(is_ready=lambda ready=ready: ready)})
            with watch.reading():
                time.sleep(0.02)
        watch._pending = None
        assert 0.04 <= watch._data < 2
        assert 0.02 <= watch._idle < watch._data - 0.019


@pytest.mark.process
def test_killed_at_random_it_always_ends_in_the_same_weights(tmp_path):
    killed, ended, same = soak(tmp_path, kills=5)  # a hundred: python tests/soak.py --kills=100
    assert killed == 5
    assert ended >= 1
    assert same
