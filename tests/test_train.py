"""The outer loop: steps, resume, signals, damage, and every mistake a user can make at the door."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import avae
from avae.config import default, experiment
from avae.data import dataset as data
from avae.objective import batch_terms, pose_loss, predict
from avae.training import checkpoint, loop, run_folder, step as training

ROOT = pathlib.Path(__file__).parent.parent
TINY = {
    "data.n_train": 256,
    "data.n_test": 24,
    "model.hidden": (16,),
    "model.latent": 3,
    "search.n_starts": 8,
    "search.twin": 1,
    "search.n_local": (),
    "train.search.n_starts": 8,
    "train.search.n_local": (),
    "train.search.n_refined": 1,
    "train.search.n_steps": 1,
    "train.batch_size": 32,
    "train.epochs": 5,  # 40 steps
    "train.checkpoint_every": 7,
    "train.log_every": 10,
    "train.warmup_steps": 2,
    "evaluation.baseline_epochs": 1,
    "evaluation.draws": 2,
    "evaluation.n_exhaustive": 8,
    "evaluation.n_bound": 8,
    "evaluation.bound_samples": 4,
    "evaluation.n_angles": 24,
    "evaluation.n_curve": 8,
    "evaluation.curve_step": 60,
}


# Orbax abandons the other reads of a damaged checkpoint when one fails; they end on a closed event loop, in threads of
# their own, and at any later time: during the tests that follow as well.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def tiny(**changes):
    config = default()
    config.update_from_flattened_dict(TINY | changes)
    return config


def fit(config, workdir):
    run_folder.claim(workdir, config)
    return loop.fit(experiment(config), workdir)


def command(config_changes, workdir):
    flags = [f"--config.{name}={value}" for name, value in (TINY | config_changes).items()]
    return [sys.executable, "train.py", "--config=configs/rot_mnist.py", f"--workdir={workdir}", *flags]


def start(workdir, **config_changes):
    return subprocess.Popen(
        command(config_changes, workdir), cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def wait_for_step(process, step):
    for line in process.stdout:
        if f" {step} steps" in line:
            return
    raise AssertionError("the run ended before that step")


def assert_same_weights(a, b):
    chex.assert_trees_all_equal(a.weights, b.weights)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """An uninterrupted run."""
    workdir = tmp_path_factory.mktemp("straight")
    return fit(tiny(), workdir), workdir


# --- the step -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{"data.pose": "fresh"}, {"train.search.enabled": False}])
def test_loss_falls(changes):
    exp = experiment(tiny(**changes))
    images, state = data.load(exp.data).train.images[:64], training.init_state(exp)
    losses = []
    for _ in range(30):
        state, metrics = training.train_step(state, images, exp)
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-5:]) < 0.85 * losses[0]
    assert int(state.step) == 30


@pytest.mark.parametrize("beta", [3.0])
def test_no_gradient_flows_through_the_search(beta):
    """The step's gradient is that of J at the fixed pose that the search finds (envelope theorem), by the same J."""
    exp = experiment(tiny(**{"train.clip_norm": 1e9, "train.warmup_steps": 0, "train.beta": beta, "train.jitter": 0.0}))
    images, state = jnp.asarray(data.load(exp.data).train.images[:16]), training.init_state(exp)
    key = jax.random.fold_in(jax.random.key(exp.train.seed), 0)
    _, _, start_key, latent_key, *_ = jax.random.split(key, 6)
    family = exp.model.transform
    by = pose_loss(state.params, family, beta=beta)
    alpha = avae.search(by, images, family, key=start_key, settings=exp.train.search).alpha

    def loss(weights):
        terms = avae.objective(state.params.replace(weights=weights), images, alpha, latent_key)
        return (terms.reconstruction + beta * terms.kl).mean()

    expected = float(jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(jax.grad(loss)(state.params.weights)))))
    _, metrics = training.train_step(state, images, exp)
    np.testing.assert_allclose(float(metrics["gradient_norm"]), expected, rtol=1e-3)


def test_fresh_poses_differ_at_every_step():
    exp = experiment(tiny(**{"data.pose": "fresh", "train.search.enabled": False, "train.learning_rate": 1e-12}))
    images, state = data.load(exp.data).train.images[:32], training.init_state(exp)
    losses = []
    for _ in range(2):
        state, metrics = training.train_step(state, images, exp)
        losses.append(float(metrics["reconstruction"]))
    assert losses[0] != losses[1]


def test_every_draw_of_a_step_has_a_key_of_its_own(monkeypatch):
    """Keys derived in two ways can be equal: `fold_in(key, i)` is `split(key, n)[i]`."""
    derived = []

    def noted(derive):
        def call(*args):
            keys = derive(*args)
            if not isinstance(keys, jax.core.Tracer):
                derived.extend(jax.random.key_data(jnp.atleast_1d(keys)).tolist())
            return keys

        return call

    exp = experiment(tiny(**{"data.pose": "fresh", "data.stretch": 2.0, "pose_network.enabled": True}))
    state, images = training.init_state(exp), jnp.zeros((8, 28, 28, 1))
    monkeypatch.setattr(training, "_search_poses", lambda *_: (jnp.zeros((8, 1)), {}))
    monkeypatch.setattr(training, "repose", lambda images, *_: images)
    for name in ("split", "fold_in"):
        monkeypatch.setattr(jax.random, name, noted(getattr(jax.random, name)))

    class Enough(Exception):
        """All keys are derived by then."""

    def grad(*_, **__):
        raise Enough

    monkeypatch.setattr(jax, "grad", grad)
    with pytest.raises(Enough):
        training.train_step.__wrapped__(state, images, exp)
    assert len(derived) >= 1 + 5 + 8
    assert len(np.unique(derived, axis=0)) == len(derived)


def test_gaussian_and_conv_train():
    changes = {"model.name": "conv", "model.image_shape": (8, 8, 1), "likelihood.name": "gaussian"}
    exp = experiment(tiny(**changes, **{"train.search.n_starts": 4}))
    images, state = data.load(exp.data).train.images[:8, 10:18, 10:18], training.init_state(exp)
    before = float(state.params.weights["log_scale"])
    state, metrics = training.train_step(state, images, exp)
    assert np.isfinite(float(metrics["loss"]))
    state, _ = training.train_step(state, images, exp)
    assert float(state.params.weights["log_scale"]) != before


# --- stop, resume, damage -------------------------------------------------------------------------------------------


@pytest.mark.process
def test_a_run_told_to_stop_says_so_and_started_again_ends_in_the_same_weights(tmp_path):
    changes = {"train.search.enabled": False, "train.epochs": 25, "train.checkpoint_every": 1000}  # 200 steps
    process = start(tmp_path / "stopped", **changes)
    wait_for_step(process, "10/200")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM after step" in output
    assert "start again to go on" in output
    again, straight = (fit(tiny(**changes), tmp_path / name) for name in ("stopped", "straight"))
    assert_same_weights(again, straight)


def test_interrupt_saves_the_step_it_was_at(tmp_path, monkeypatch):
    """SIGINT in the middle, away from any checkpoint step, loses nothing."""
    calls = []

    def step_then_interrupt(*args, **kwargs):
        calls.append(1)
        if len(calls) == 10:
            os.kill(os.getpid(), signal.SIGINT)
        return training.train_step(*args, **kwargs)

    monkeypatch.setattr(loop, "train_step", step_then_interrupt)
    with pytest.raises(loop.Interrupted, match="stopped by SIGINT after step 10, saved in"):
        fit(tiny(), tmp_path)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        assert int(checkpoints.restore(training.init_state(experiment(tiny()))).step) == 10


@pytest.mark.parametrize("family", ["rotation", "rigid"])
def test_the_encoder_s_pose_is_off_by_half_a_pixel_at_the_rim(family):
    exp = experiment(tiny(**{"transform.name": family}))
    assert exp.train.jitter == 0.5
    transform = exp.model.transform
    alpha = jnp.tile(transform.identity, (2000, 1))
    seen = training.jittered(alpha, exp, jax.random.key(0), (20, 30))
    steps = jax.vmap(transform.step)(alpha, seen)
    np.testing.assert_allclose(np.std(steps, axis=0), 0.5 * 2 / 20, rtol=0.1)
    np.testing.assert_allclose(np.mean(steps, axis=0), 0, atol=0.005)


def test_the_encoder_alone_sees_the_other_pose():
    exp = experiment(tiny())
    images, state = jnp.asarray(data.load(exp.data).train.images[:4]), training.init_state(exp)
    alpha, seen = jnp.full((4, 1), 0.4), jnp.full((4, 1), 0.7)
    found = batch_terms(state.params, images, alpha, None, seen)
    np.testing.assert_allclose(found.kl, batch_terms(state.params, images, seen).kl, rtol=1e-5)
    for x, a, b, reconstruction in zip(images, alpha, seen, found.reconstruction, strict=True):
        shown = predict(state.params, x, exp.model.transform, a, None, b)
        expected = -state.params.model.log_prob(state.params.weights, x, shown.mean)
        np.testing.assert_allclose(expected, reconstruction, rtol=1e-4)
    same = batch_terms(state.params, images, alpha, None, alpha)
    np.testing.assert_allclose(same.total, batch_terms(state.params, images, alpha).total, rtol=1e-6)


def test_resume_does_not_log_a_step_twice(straight, tmp_path):
    _, workdir = straight
    text = (workdir / "metrics.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [10, 20, 30, 40]
    fit(tiny(), workdir)  # nothing left to do
    assert (workdir / "metrics.jsonl").read_text() == text


def test_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(straight, tmp_path, capsys):
    fit(tiny(), tmp_path)
    newest = max((tmp_path / "checkpoints").iterdir(), key=lambda path: int(path.name))
    for path in newest.rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(path.read_bytes()[:10])
    again = fit(tiny(), tmp_path)
    assert "checkpoint 40 cannot be read" in capsys.readouterr().err
    assert_same_weights(again, straight[0])


def test_half_written_checkpoint_is_ignored(straight, tmp_path):
    fit(tiny(), tmp_path)
    (tmp_path / "checkpoints" / "999.orbax-checkpoint-tmp").mkdir()
    assert_same_weights(avae.load(tmp_path), straight[0])


def test_all_checkpoints_damaged_is_a_sentence(tmp_path):
    fit(tiny(), tmp_path)
    for path in (tmp_path / "checkpoints").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of the checkpoints .* can be read"):
        avae.load(tmp_path)


def test_a_step_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    real = training.train_step

    def poisoned(state, images, *args):
        return real(state, images * (np.nan if int(state.step) == 9 else 1.0), *args)

    monkeypatch.setattr(loop, "train_step", poisoned)
    with pytest.raises(FloatingPointError, match=r"step 10: .*loss.* not finite; the last good checkpoint"):
        fit(tiny(), tmp_path)
    params = avae.load(tmp_path)  # that of step 7
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params.weights))


def test_load_gives_the_trained_weights(straight):
    params, workdir = straight
    loaded = avae.load(str(workdir))
    assert_same_weights(loaded, params)
    assert loaded.model == params.model
    images = data.load(experiment(tiny()).data).test.images
    found = avae.align(loaded, images)
    assert found.alpha.shape == (24, 1)


# --- mistakes -------------------------------------------------------------------------------------------------------


def test_a_workdir_of_another_config_names_what_differs(straight):
    _, workdir = straight
    with pytest.raises(ValueError, match=r"another config \(model.latent: 3 there, 4 here\)"):
        fit(tiny(**{"model.latent": 4}), workdir)


def test_what_does_not_touch_the_weights_may_change(straight):
    _, workdir = straight
    fit(tiny(**{"evaluation.draws": 3, "train.log_every": 5}), workdir)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: (path / "config.json").write_text("{")])
def test_no_run_in_a_folder_is_a_sentence(make, tmp_path):
    make(tmp_path)
    with pytest.raises(ValueError, match=r"no run here|not a readable config"):
        avae.load(tmp_path)


def test_a_run_without_a_checkpoint_is_a_sentence(tmp_path):
    run_folder.claim(tmp_path, tiny())
    with pytest.raises(ValueError, match="has not saved a checkpoint yet"):
        avae.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.epochs": 0}, "train.epochs: expected a whole number of at least 1, got 0"),
        ({"train.batch_size": 0}, "train.batch_size: expected a whole number of at least 1"),
        ({"train.learning_rate": -1.0}, "learning_rate > 0"),
        ({"data.pose": "tilted"}, "data.pose: expected one of fixed, as_is, fresh, got 'tilted'"),
        ({"model.name": "mpl"}, "model.name: expected one of mlp, conv, got 'mpl'; did you mean 'mlp'"),
        ({"transform.name": "rotations"}, "did you mean 'rotation'"),
        ({"likelihood.name": "poisson"}, "likelihood.name: expected one of bernoulli, gaussian"),
        ({"search.top_k": 9}, "top_k: expected at most n_starts, 8, got 9"),
        ({"data.n_train": 12_001}, "at most the 12000 embedded digits, got 12001"),
        ({"data.n_train": 16}, "at most the 16 training examples, got 32"),
        ({"data.transform.name": "rotation3d"}, "the digits are images, but Rotation3D poses volumes"),
        ({"transform.name": "rigid3d", "search.top_k": 2}, r"Rigid3D poses data of dimension 3, .* \(28, 28, 1\)"),
        ({"transform.name": "rigid", "transform.max_shift": -1.0}, "rigid expects 0 < max_shift <= 2 half-widths"),
        ({"evaluation.draws": 0}, "evaluation.draws"),
        ({"data.binarize": "sample", "data.pose": "fresh"}, "cannot be binarized"),
    ],
)
def test_a_wrong_setting_is_a_sentence(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        fit(tiny(**changes), tmp_path)


def test_unknown_and_missing_settings_are_named():
    config = tiny().to_dict()
    config["train"]["lerning_rate"] = 1.0
    with pytest.raises(ValueError, match=r"config.train: unknown setting 'lerning_rate'; did you mean 'learning_rate'"):
        experiment(config)
    config = tiny().to_dict()
    del config["train"]["epochs"]
    with pytest.raises(ValueError, match=r"missing setting.* epochs"):
        experiment(config)


@pytest.mark.process
@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.train.lerning_rate=1", "no such setting: lerning_rate; did you mean learning_rate?"),
        ("--config.train.epochs=many", "epochs=many: invalid literal for int"),
        ("--nonsense=1", "Unknown command line flag 'nonsense'"),
        ("surplus", "unexpected argument 'surplus'"),
        ("--coordinator=localhost:1", "--coordinator: expected --distributed beside it"),
    ],
)
def test_a_wrong_flag_is_a_sentence(flag, message):
    command = [sys.executable, "train.py", "--config=configs/rot_mnist.py", flag]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


# --- data -----------------------------------------------------------------------------------------------------------


def test_every_epoch_is_a_permutation_and_order_depends_on_the_step_alone():
    order = data.order(100, 10, seed=3)
    first = np.concatenate([order[step] for step in range(10)])
    second = np.concatenate([order[step] for step in range(10, 20)])
    np.testing.assert_array_equal(np.sort(first), np.arange(100))
    np.testing.assert_array_equal(np.sort(second), np.arange(100))
    assert (first != second).any()
    np.testing.assert_array_equal(order[7], data.order(100, 10, seed=3)[7])
    assert (order[7] != data.order(100, 10, seed=4)[7]).any()


@pytest.mark.parametrize("batch_size", [7, 10, 25])
def test_batches_run_over_the_ends_of_epochs(batch_size):
    order = data.order(25, batch_size, seed=0)
    drawn = np.concatenate([order[step] for step in range(12)])
    assert len(drawn) == 12 * batch_size
    for epoch in drawn[: len(drawn) // 25 * 25].reshape(-1, 25):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(25))


def test_digits_are_the_embedded_ones_at_their_poses():
    upright = data.load(data.Data(pose="upright", n_train=20, n_test=20))
    fixed = data.load(data.Data(n_train=20, n_test=20))
    assert upright.test.images.shape == (20, 28, 28, 1)
    assert upright.test.images.dtype == np.float32
    turned = avae.warp(upright.test.images, jax.vmap(avae.Rotation().matrix)(fixed.test.poses))
    np.testing.assert_allclose(fixed.test.images, turned, atol=1e-5)
    assert not upright.test.poses.any()
    assert np.abs(fixed.test.poses).max() > 1


def test_poses_follow_the_seed():
    a, b, c = (data.load(data.Data(seed=seed, n_train=8, n_test=8)).train.poses for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert (a != c).all()


@pytest.mark.parametrize("how", ["threshold", "sample"])
def test_binarized_images_are_binary(how):
    images = data.load(data.Data(n_train=8, n_test=8, binarize=how)).train.images
    assert set(np.unique(images)) == {0.0, 1.0}


def test_settings_are_frozen_and_hashable():
    exp = experiment(tiny())
    assert hash(exp) == hash(experiment(tiny()))
    with pytest.raises(dataclasses.FrozenInstanceError):
        exp.train = None
