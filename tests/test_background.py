"""What lies outside of the frame: the background of the images, not black."""

import argparse
import dataclasses
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from template import SIDE, errors, picture, template, turned
from test_train import TINY

import avae
from avae.config import complete, default, experiment
from avae.data import dataset as data
from avae.evaluation import curves
from avae.objective import pose_loss
from avae.training import run_folder
from avae.training.loop import fit
from avae.transforms.warp import warp_one

DEGREES = np.array([20, 45, 75, 130, 200, 250, 310, 335.0])


def test_black_on_white_has_the_poses_of_its_inverse():
    ink = picture()
    black = errors(template(ink), turned(ink, DEGREES), DEGREES)
    white = errors(template(1 - ink, background=1.0), turned(1 - ink, DEGREES, 1.0), DEGREES)
    assert black.max() < 3
    assert np.median(np.abs(white - black)) < 0.1
    assert white.max() < 3


@pytest.mark.parametrize("likelihood", [avae.Gaussian(scale=0.1), avae.Bernoulli()])
def test_black_on_white_has_the_losses_of_its_inverse(likelihood):
    """At all poses; without a background at none but multiples of 90 degrees."""
    ink, poses = picture(), np.radians(np.arange(0, 360, 15), dtype=np.float32)[:, None]

    def losses(ink, fill, background):
        params, x = template(ink, likelihood, background=background), turned(ink, [75.0], fill)[0]
        return jax.jit(jax.vmap(lambda alpha: pose_loss(params, avae.Rotation())(x, alpha)))(poses)

    black = losses(ink, 0.0, 0.0)
    np.testing.assert_allclose(losses(1 - ink, 1.0, 1.0), black, rtol=1e-3)
    assert np.argmin(black) == 24 - 5
    assert np.argmin(losses(1 - ink, 1.0, 0.0)) % 6 == 0


def test_five_per_cent_of_grey_needs_a_background():
    ink = 0.05 + 0.95 * picture()
    images = turned(ink, DEGREES, 0.05)
    assert errors(template(ink, background=avae.estimate_background(images)), images, DEGREES).max() < 3


@pytest.mark.parametrize("shape", [(4, 5, 2), (3, 4, 5, 2)])
def test_warps_fill_each_channel_with_its_level(shape):
    x = jax.random.uniform(jax.random.key(0), shape)
    dim = len(shape) - 1
    away = np.eye(dim, dim + 1, dtype=np.float32)
    away[0, -1] = 9.0
    far = np.asarray(warp_one(x, jnp.asarray(away), outside=(0.25, 0.75)))
    assert (far == np.array([0.25, 0.75])).all()
    still = jnp.eye(dim, dim + 1)
    np.testing.assert_array_equal(warp_one(x, still, outside=(0.3, 0.7)), x)  # to the last bit
    turn = np.eye(dim, dim + 1, dtype=np.float32)
    turn[0, 1], turn[0, -1] = 0.4, 0.3
    warp = jax.jit(avae.warp, static_argnames="background")
    level = np.float32([0.3, 0.7])
    about = np.asarray(warp(np.asarray(x) - level, turn)) + level
    np.testing.assert_allclose(warp(x, turn, (0.3, 0.7)), about, atol=1e-6)
    batch = jnp.stack([x, x])
    np.testing.assert_allclose(warp(batch, turn, (0.3, 0.7))[1], warp(x, turn, (0.3, 0.7)), atol=1e-6)


def test_a_black_background_changes_no_program(images, params):
    """Nothing is added to the warp: the same bits as ever."""

    def program(*outside):
        return str(jax.make_jaxpr(lambda x: warp_one(x, jnp.eye(2, 3), outside=outside))(images[0]))

    assert program() == program(0.0) != program(0.5)
    assert avae.Model().background == (0.0,)
    assert avae.Model(background=0.0) == avae.Model()
    assert avae.Model.background == (0.0,)  # what models have that were pickled before there was one


def test_the_smaller_twin_has_the_background():
    model = avae.Model(avae.MLP((8, 8, 1), hidden=(4,)), background=0.5)
    assert avae.init(jax.random.key(0), model).reduced(2).model.background == (0.5,)


def test_an_undeclared_background_is_told_of(params):
    """Of any channel, with holes or without, and never under a trace or where no pose is searched."""
    x = np.full((2, 12, 12, 1), 0.9, np.float32)
    x[:, 4:8, 4:8] = 0.1
    with pytest.warns(UserWarning, match=r"borders .* lie at \(0.9,\), .* background is \(0.0,\)"):
        avae.objective(params, x)
    with pytest.warns(UserWarning, match="lie at"):
        avae.objective(params, np.ma.masked_less(x, 0.0 + (np.arange(144).reshape(1, 12, 12, 1) % 7 == 0)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jax.eval_shape(avae.objective, params, x)
        avae.objective(params.replace(model=dataclasses.replace(params.model, background=0.9)), x)
        avae.objective(params.replace(model=dataclasses.replace(params.model, transform=avae.QuarterTurns())), x)


def test_a_background_beside_networks_in_bfloat16(images, params):
    params = params.replace(model=dataclasses.replace(params.model, background=0.5)).in_precision("bfloat16")
    loss = jax.jit(avae.objective)(params, images, jnp.full((3, 1), 0.5)).total
    assert loss.dtype == jnp.float32
    assert bool(jnp.isfinite(loss).all())


def test_a_background_in_64_bits(images, params, x64):
    params = params.replace(model=dataclasses.replace(params.model, background=0.5))
    canonical = params.model.to_canonical(jnp.asarray(images[0]), avae.Rotation(), jnp.ones(1, jnp.float32))
    assert canonical.dtype == jnp.float32


@pytest.mark.parametrize(
    ("background", "said"),
    [
        (float("nan"), "finite"),
        ("white", "finite"),
        ((), "finite"),
        (True, "finite"),
        (1.5, r"\[0, 1\] for the Bernoulli"),
        ((0.1, 0.2), "expected 1 level, got|one per channel"),
    ],
)
def test_a_wrong_background_is_named(background, said):
    with pytest.raises(avae.Mistake, match=said):
        avae.Model(background=background)


def test_channels_are_counted_where_the_networks_do_not_say(images):
    class Anything:
        encode = staticmethod(lambda weights, x: (x[0, 0], x[0, 0]))
        decode = staticmethod(lambda weights, z: z)

    with pytest.raises(avae.Mistake, match="background: expected 1 level"):
        avae.align(avae.Params({}, avae.Model(Anything(), background=(0.1, 0.2))), images)


def test_the_estimate_is_the_median_of_the_border():
    x = np.zeros((5, 6, 6, 2), np.float32)
    x[:, 0] = 9.0  # one side of four
    x[..., 1] += 0.25
    x[:, 2:4, 2:4] = 7.0
    assert avae.estimate_background(x) == (0.0, 0.25)
    hidden = np.ma.array(x, mask=x == 0.0)
    assert avae.estimate_background(hidden)[0] == 9.0
    assert avae.estimate_background(np.ma.array(x, mask=True)) == (0.0, 0.0)
    with pytest.raises(avae.Mistake, match="batch of images"):
        avae.estimate_background(np.zeros((6, 6)))


@pytest.mark.parametrize(("name", "family"), [("digits", avae.Rotation()), ("furniture", avae.Rotation3D())])
def test_the_embedded_sets_are_on_black(name, family):
    """To the last bit: runs on them are what they were."""
    assert data.load(data.Data(name, transform=family, pose="upright", n_train=100, n_test=1)).background == (0.0,)


def test_turned_images_are_on_their_background():
    white = 1 - picture()[None, ..., None].astype(np.float32)
    pose, family = jnp.array([[0.6]]), avae.Rotation()
    posed = data.repose(white, pose, family, None, (1.0,))
    np.testing.assert_allclose(posed, 1 - data.repose(1 - white, pose, family), atol=1e-6)
    low = data.repose(white * 0, pose, family, None, (-0.5,))  # a level below all of the image is not clipped
    assert float(low.min()) == -0.5


@pytest.fixture
def grey(tmp_path):
    """A config of a run on eight images with a border of 0.25."""
    ink = 0.25 + 0.75 * np.random.default_rng(0).random((8, 8, 8, 1)).astype(np.float32)
    ink[:, [0, -1]] = ink[:, :, [0, -1]] = 0.25
    np.save(tmp_path / "grey.npy", ink)
    config = default()
    own = {"data.name": str(tmp_path / "grey.npy"), "data.n_train": 4, "data.n_test": 4, "data.pose": "upright"}
    small = {"model.image_shape": (8, 8, 1), "train.batch_size": 4, "train.epochs": 1}
    config.update_from_flattened_dict(TINY | own | small)
    return config


def test_a_run_keeps_the_background_of_its_data(grey, tmp_path):
    workdir = tmp_path / "run"
    params = fit(experiment(grey), workdir, grey)
    assert params.model.background == (0.25,)
    assert json.loads((workdir / "config.json").read_text())["data"]["background"] == "auto"
    assert json.loads((workdir / "data.json").read_text())["background"] == [0.25]
    assert avae.load(workdir).model.background == (0.25,)
    described = run_folder.load_experiment(workdir)
    assert described.data.background == described.model.background == (0.25,)
    (tmp_path / "grey.npy").unlink()  # what is known needs no data
    assert fit(experiment(grey), workdir, grey).model.background == (0.25,)
    grey.data.background = 0.5
    with pytest.raises(avae.Mistake, match=r"data.background: 'auto' there, 0.5 here"):
        run_folder.check(workdir, grey)


def test_a_background_of_a_config(grey, tmp_path):
    for given in (0.5, (0.5,), [0.5]):
        grey.data.background = given
        described = experiment(grey)
        assert described.data.background == described.model.background == (0.5,)
    workdir = tmp_path / "run"
    run_folder.claim(workdir, grey)
    assert run_folder.load_experiment(workdir).model.background == (0.5,)
    run_folder.check(workdir, grey)
    grey.data.binarize = "threshold"
    assert experiment(grey).model.background == (0.0,)  # what 0.5 becomes
    grey.data.background = 2.0
    grey.data.binarize = "none"
    with pytest.raises(avae.Mistake, match=r"background: expected values in \[0, 1\]"):
        experiment(grey)
    grey.data.background = "white"
    with pytest.raises(avae.Mistake, match=r"data\.background"):
        experiment(grey)
    grey.data.background = (0.1, 0.2)
    with pytest.raises(avae.Mistake, match="one per channel"):
        experiment(grey)


def test_runs_of_older_versions_are_on_black(grey, tmp_path):
    config = complete(grey)
    del config["data"]["background"]
    (tmp_path / "config.json").write_text(json.dumps({"version": 1} | config))
    assert run_folder.load_experiment(tmp_path).data.background == (0.0,)
    run_folder.check(tmp_path, grey)  # may go on
    assert run_folder.with_background(tmp_path, experiment(grey)).model.background == (0.0,)


def test_streamed_images_are_on_their_background(grey, monkeypatch):
    grey.data.pose = "fixed"
    whole = data.load(experiment(grey).data)
    monkeypatch.setattr(data, "IN_MEMORY", 1)
    drawn = data.load(experiment(grey).data)
    np.testing.assert_allclose(drawn.train.images[np.arange(4)], whole.train.images, atol=1e-6)
    assert whole.train.images.min() >= 0.25 - 1e-6
    assert data.extremes(drawn.train.images).min() == 0.25


def test_the_curve_turns_examples_on_their_background(monkeypatch):
    white, seen = 1 - picture()[None, ..., None].astype(np.float32), []
    monkeypatch.setattr(curves, "over_batches", lambda both, rows, *_, **__: both(*map(jnp.asarray, rows)))
    monkeypatch.setattr(curves, "plain_loss", lambda params, x: np.zeros(len(x)))
    monkeypatch.setattr(curves, "align", lambda params, x: seen.append(x) or argparse.Namespace(loss=np.zeros(len(x))))
    curves.loss_curves({"avae": None}, white, 45, "none", jax.random.key(0), (1.0,))
    assert seen[0].shape == (8, SIDE, SIDE, 1)
    assert float(jnp.min(seen[0][:, 0, 0])) > 0.9  # corners
