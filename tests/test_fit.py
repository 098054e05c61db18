"""`avae.fit`: from an array to `Params` that take raw values of its kind."""

import jax
import numpy as np
import pytest
from template import SIDE, picture, template, turned

import avae
from avae.networks import values
from avae.networks.values import Values
from avae.runtime.parts import Layout
from avae.training import loop
from avae.training.loop import started
from avae.training.run_folder import load_experiment
from avae.training.step import _search_poses, init_state, train_step

IMAGES = turned(picture(), np.arange(24) * 47.0)[..., 0]
SHORT = {"epochs": 1, "latent": 2, "transform": "rotation", "batch_size": 8}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on 8-bit images, and its folder."""
    workdir = tmp_path_factory.mktemp("fit") / "run"
    return avae.fit((255 * IMAGES).astype(np.uint8), workdir=workdir, progress=False, **SHORT), workdir


def test_raw_values_of_the_same_kind_are_taken(run):
    params, _ = run
    stored = (255 * IMAGES[:3]).astype(np.uint8)[..., None]
    found = avae.align(params, stored)
    same = avae.align(params, stored.astype(np.float32) / 255)
    np.testing.assert_array_equal(found.alpha, same.alpha)
    assert found.canonical.shape == (3, SIDE, SIDE, 1)


def test_masks_of_0_and_1_are_not_fractions_of_255():
    masks = (IMAGES[:2] > 0.5).astype(np.uint8)[..., None]
    np.testing.assert_array_equal(Values()(masks), masks)
    np.testing.assert_array_equal(Values()(255 * masks), masks)


def test_a_run_keeps_what_its_reader_decided_of_8_bit_values(run, tmp_path, monkeypatch):
    params, workdir = run
    monkeypatch.setattr(values, "_is_mask", None)  # no batch is looked at
    assert load_experiment(workdir).data.masks is params.model.values.masks is False
    dark = np.zeros((1, SIDE, SIDE, 1), np.uint8)
    dark[0, 3, 3] = 1
    assert params.model.values(dark).max() == params.model.values(jax.numpy.asarray(dark)).max() == np.float32(1 / 255)
    masks = (IMAGES > 0.5).astype(np.uint8)
    ours = avae.fit(masks, workdir=tmp_path / "masks", progress=False, **SHORT).model.values
    assert load_experiment(tmp_path / "masks").data.masks is ours.masks is True
    assert ours(dark).max() == 1


def test_a_workdir_is_a_run_that_goes_on(run, capsys):
    params, workdir = run
    again = avae.fit((255 * IMAGES).astype(np.uint8), workdir=workdir, **SHORT)
    assert "batch_size" in capsys.readouterr().err
    assert again.model == params.model == avae.load(workdir).model
    np.testing.assert_array_equal(
        again.weights["decoder"]["Dense_0"]["bias"], params.weights["decoder"]["Dense_0"]["bias"]
    )
    with pytest.raises(avae.Mistake, match="holds a run on other images"):
        avae.fit(IMAGES, workdir=workdir, progress=False, **SHORT)
    with pytest.raises(avae.Mistake, match=r"model.latent: 2 there, 3 here"):
        avae.fit((255 * IMAGES).astype(np.uint8), workdir=workdir, progress=False, **SHORT | {"latent": 3})


def test_a_run_begins_with_the_weights_of_another(run, tmp_path):
    params, workdir = run
    state = started(init_state(load_experiment(workdir)), str(workdir))
    jax.tree.map(np.testing.assert_array_equal, state.params.weights, params.weights)
    stored = (255 * IMAGES).astype(np.uint8)
    more = avae.fit(stored, **SHORT, start=workdir, workdir=tmp_path / "more", progress=False)
    moved = jax.tree.map(lambda a, b: float(abs(a - b).max()), more.weights, params.weights)
    assert 0 < max(jax.tree.leaves(moved)) < 0.2
    with pytest.raises(avae.Mistake, match=r"train.start: expected networks of the same kind"):
        avae.fit(stored, **SHORT | {"latent": 3}, start=workdir, workdir=tmp_path / "other", progress=False)


def test_nothing_is_left_or_said_without_a_workdir(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    params = avae.fit(
        100 + 5 * np.random.default_rng(0).normal(size=(12, 6, 6)), progress=False, **SHORT | {"batch_size": 4}
    )
    assert params.model.values.mean == pytest.approx(100, abs=1)
    assert params.model.values.std == pytest.approx(5, abs=1)
    assert isinstance(params.model.likelihood, avae.Gaussian)
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (np.zeros((4, 5)), r"got shape \(4, 5\)"),
        (np.zeros((0, 5, 5)), r"got shape \(0, 5, 5\)"),
        (np.full((4, 5, 5), np.nan), r"NaN or infinity in 4 image\(s\), first 0"),
        (np.zeros((4, 5, 5), complex), "got dtype complex128"),
        (np.ma.masked_equal(np.zeros((4, 5, 5)), 0), "expected a weight above 0 somewhere"),
        (
            np.ma.array(np.ones((4, 5, 5)), mask=np.arange(4)[:, None, None] == np.full((5, 5), 2)),
            "same pixels masked in every image to train on, but 1 of 4 differ from the first, such as 2",
        ),
        (np.ones((2, 5, 5)), "expected at least 3 examples, got 2"),
    ],
)
def test_what_cannot_be_trained_on_is_named(x, said):
    with pytest.raises(avae.Mistake, match=said):
        avae.fit(x, progress=False)


def test_a_background_is_in_the_values_of_the_images():
    grey = (100 + 50 * IMAGES).astype(np.float32)
    params = avae.fit(grey, progress=False, background=100, **SHORT)
    model = params.model
    assert model.background == pytest.approx(((100 - model.values.mean) / model.values.std,), abs=1e-5)
    assert model.background == pytest.approx(avae.estimate_background(model.values(grey[..., None])), abs=1e-5)
    with pytest.raises(avae.Mistake, match=r"background: expected values from 0 to 255, as they are stored \(uint8\)"):
        avae.fit((255 * IMAGES).astype(np.uint8), progress=False, background=-1, **SHORT)


def test_pixels_masked_in_all_images_become_the_mask_of_the_model(tmp_path):
    hole = np.zeros((SIDE, SIDE), bool)
    hole[5:8, 9:12] = True
    spoilt = np.ma.array(np.where(hole, np.nan, IMAGES), mask=np.broadcast_to(hole, IMAGES.shape))
    params = avae.fit(spoilt, workdir=tmp_path / "run", progress=False, **SHORT)
    np.testing.assert_array_equal(params.model.mask.weights[..., 0], ~hole)
    assert avae.fit(spoilt, workdir=tmp_path / "run", progress=False, **SHORT).model == params.model
    assert np.isfinite(avae.align(params, spoilt[:2][..., None]).loss).all()
    (tmp_path / "run").rename(tmp_path / "moved")
    assert avae.fit(spoilt, workdir=tmp_path / "moved", progress=False, **SHORT).model.mask == params.model.mask
    with pytest.raises(avae.Mistake, match=r"likelihood.mask: .* there, None here"):
        avae.fit(spoilt.filled(0), workdir=tmp_path / "moved", progress=False, **SHORT)


def test_training_begins_near_known_poses(tmp_path):
    known = -np.radians(np.arange(24) * 47.0)[:, None]
    known = np.asarray(jax.vmap(avae.Rotation().project)(known.astype(np.float32)))
    avae.fit(IMAGES, workdir=tmp_path / "run", poses=known, progress=False, **SHORT)
    described = load_experiment(tmp_path / "run")
    splits, _ = loop._training_images(described)
    images, rows = splits.train.images, splits.rows
    np.testing.assert_array_equal(np.asarray(images)[..., 0], IMAGES[rows])
    np.testing.assert_array_equal(loop._known(described, splits), known[rows])
    again = init_state(described).replace(poses=jax.numpy.asarray(known[rows]))
    index = np.arange(8)
    far = again.replace(poses=again.poses + 1.0, step=jax.numpy.asarray(0))
    key, x = jax.random.key(0), images[index]
    search = jax.jit(lambda state: _search_poses(state, x, key, described, Layout(1), index)[0])
    moved = [np.abs(np.asarray(search(far.replace(step=far.step + k))) - known[rows][:8] - 1.0).max() for k in (0, 1)]
    assert 0.05 < moved[0] <= 0.2
    assert moved[1] > 0.3
    before = np.asarray(far.poses)
    state, _ = train_step(far, images[index], described, 1, index)
    np.testing.assert_array_equal(state.poses, before)
    state, _ = train_step(state, images[index], described, 1, index)
    assert (np.asarray(state.poses)[:8] != before[:8]).all()
    with pytest.raises(avae.Mistake, match=r"expected one pose per image, shape \(24, 1\), got \(5, 1\)"):
        avae.fit(IMAGES, poses=known[:5], progress=False, **SHORT)
    with pytest.raises(avae.Mistake, match=r"train.poses: expected .* a family that is no finite set"):
        avae.fit(IMAGES, poses=known, progress=False, **SHORT | {"transform": "quarter_turns"})


def test_an_unknown_family_is_named():
    with pytest.raises(avae.Mistake, match=r"transform.name: expected one of .*, got 'rigit'; did you mean 'rigid'"):
        avae.fit(IMAGES, transform="rigit", progress=False)


def test_examples_and_their_figure(tmp_path):
    digits, labels = avae.examples("digits", 5)
    assert digits.shape == (5, 28, 28, 1)
    assert digits.dtype == np.float32
    assert labels.shape == (5,)
    np.save(tmp_path / "own.npy", IMAGES)
    own, labels = avae.examples(tmp_path / "own.npy")
    np.testing.assert_array_equal(own[..., 0], IMAGES)
    found = avae.align(template(picture()), own[:4])
    figure = avae.figure(own[:4], found, 3)
    assert len(figure.axes) == 9
    with pytest.raises(avae.Mistake, match="x: expected 4 images, one for each pose, got 3"):
        avae.figure(own[:3], found)
    with pytest.raises(avae.Mistake, match="n: expected from 1 to the 24 examples"):
        avae.examples(tmp_path / "own.npy", 25)
