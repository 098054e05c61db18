"""Pixels that count by a weight, and pixels that are missing."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear import draw_images, linear_params
from template import errors, picture, template, turned
from test_background import DEGREES, grey as grey

import avae
from avae.config import complete, experiment
from avae.inference.checks import check_likelihood
from avae.networks.mask import observed, present_means
from avae.networks.paper_loss import PaperLoss
from avae.networks.vae import block_means
from avae.objective import pose_loss
from avae.solvers import linearise
from avae.training import run_folder

HOLE = np.zeros((3, 12, 12, 1), bool)
HOLE[:, 2:5, 2:6] = True
HOLE.flags.writeable = False
QUICK = {"n_starts": 8, "twin": 2, "top_k": 2, "n_local": (), "n_refined": 1, "n_steps": 2}


def masked(images, under):
    """The images with the hole masked, `under` it."""
    return np.ma.array(np.where(HOLE, np.float32(under), images), mask=HOLE)


def with_model(params, **changes):
    return params.replace(model=dataclasses.replace(params.model, **changes))


# --- likelihoods ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", [avae.Gaussian(0.3), avae.Gaussian(), avae.Bernoulli(), PaperLoss()])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_weighted_likelihood_is_the_weighted_sum_of_its_pixels(likelihood, channels):
    rng = np.random.default_rng(0)
    x, mean = rng.random((2, 4, 3, 2), np.float32)
    weight = rng.random((4, 3, channels), np.float32)
    weights = {"log_scale": jnp.float32(0.3)}
    expected = sum(
        weight[i, j, min(c, channels - 1)] * likelihood.log_prob(weights, x[i, j, c, None], mean[i, j, c, None])
        for i in range(4) for j in range(3) for c in range(2)
    )  # fmt: skip
    np.testing.assert_allclose(likelihood.log_prob(weights, x, mean, weight), expected, rtol=1e-5)
    raw = likelihood.log_prob_raw(weights, x, mean, weight)
    np.testing.assert_allclose(raw, likelihood.log_prob(weights, x, likelihood.mean(mean), weight), rtol=1e-4)
    plain = likelihood.log_prob(weights, x, mean)
    np.testing.assert_allclose(likelihood.log_prob(weights, x, mean, np.ones((4, 3, 1), np.float32)), plain, rtol=1e-6)


def test_what_the_mask_leaves_out_changes_nothing(images, params):
    """Neither the loss, nor its slope; the encoder sees it still."""
    mask = np.ones((12, 12, 1))
    mask[:4] = 0
    model = dataclasses.replace(params.model, mask=avae.Mask.of(mask))
    mean = np.full((12, 12, 1), 0.3, np.float32)
    other = np.where(mask > 0, images[0], 1.0).astype(np.float32)
    assert model.log_prob({}, images[0], mean) == model.log_prob({}, other, mean)
    assert (model.fisher({}, images[0], mean)[:4] == 0).all()
    assert (model.fisher({}, images[0], mean)[4:] > 0).all()
    slope = jax.grad(lambda mean: model.log_prob({}, images[0], mean))(mean)
    assert (slope[:4] == 0).all()


# --- masked arrays --------------------------------------------------------------------------------------------------


def test_missing_pixels_are_at_the_background_and_count_for_nothing():
    x = jnp.array([[0.5, jnp.nan], [jnp.nan, 0.0]])[..., None]
    pixels, weight = observed(x, (0.25,))
    np.testing.assert_array_equal(pixels[..., 0], [[0.5, 0.25], [0.25, 0.0]])
    np.testing.assert_array_equal(weight[..., 0], [[1, 0], [0, 1]])
    gradient = jax.grad(lambda x: jnp.sum(observed(x, (0.25,))[0] ** 2))(x)
    np.testing.assert_array_equal(gradient[..., 0], [[1, 0], [0, 0]])


def test_blocks_are_means_of_what_is_there():
    x = np.arange(16, dtype=np.float32).reshape(4, 4, 1)
    hole = x.copy()
    hole[0, 0] = hole[2:, 2:] = np.nan
    means = np.asarray(present_means(jnp.asarray(hole), 2))[..., 0]
    np.testing.assert_allclose(means, [[(1 + 4 + 5) / 3, 4.5], [10.5, np.nan]])
    np.testing.assert_array_equal(present_means(jnp.asarray(x), 2), block_means(x, 2))


@pytest.mark.parametrize("name", ["align", "plain", "encode"])
def test_nobody_sees_what_is_masked(images, params, name):
    call = {
        "align": lambda x: avae.align(params, x, search=QUICK),
        "plain": lambda x: avae.objective(params, x),
        "encode": lambda x: avae.encode(params, x),
    }[name]
    one, two = (jax.tree.leaves(call(masked(images, under))) for under in (0.0, np.nan))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.isnan(a).any()
    with_holes = jax.tree.leaves(call(images))
    assert any(not np.array_equal(a, b) for a, b in zip(one, with_holes, strict=True))
    nothing = jax.tree.leaves(call(np.ma.array(images, mask=False)))
    for a, b in zip(nothing, with_holes, strict=True):
        np.testing.assert_array_equal(a, b)  # to the last bit


def test_derivatives_are_finite_beside_missing_pixels(images, params):
    missing = with_model(params, missing=True)
    x = jnp.asarray(masked(images, 0.0).filled(np.nan))[0]
    family = params.model.transform
    local = jax.jit(lambda x: linearise(pose_loss(missing, family), x, jnp.array([0.3]), family))(x)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(local))
    loss = jax.jit(jax.grad(lambda weights: avae.objective(missing.replace(weights=weights), x[None]).total.sum()))
    slope = loss(params.weights)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(slope))


def test_cosmic_rays_do_not_turn_an_image():
    ink = picture()
    images = turned(ink, DEGREES)
    hit = np.zeros(images.shape, bool)
    hit[:, 2:6, 2:15] = True
    struck = np.where(hit, np.float32(5.0), images)
    assert errors(template(ink), np.ma.array(struck, mask=hit), DEGREES).max() < 1  # 90, where they count


def test_bounds_are_those_of_the_observed_pixels():
    """A masked pixel is integrated out: the bound at the identity is the likelihood of the others, in closed form."""
    params = linear_params(avae.Rotation())
    x = np.asarray(draw_images(params, 2)[0])
    hole = np.zeros(x.shape, bool)
    hole[:, 4:8, 4:8] = True
    basis = np.asarray(params.weights["basis"], np.float64).reshape(-1, 2)
    mean = np.asarray(params.weights["mean"], np.float64).ravel()
    exact = []
    for image, gone in zip(x, hole, strict=True):
        there = ~gone.ravel()
        r = (image.ravel() - mean)[there]
        covariance = basis[there] @ basis[there].T + 0.25**2 * np.eye(there.sum())
        log_det = np.linalg.slogdet(2 * np.pi * covariance)[1]
        exact.append(-0.5 * (r @ np.linalg.solve(covariance, r) + log_det))
    bound = avae.log_likelihood(params, np.ma.array(x, mask=hole), method="iwae", n_samples=64)
    np.testing.assert_allclose(bound.value, exact, atol=0.3)
    assert (bound.value < np.array(exact) + 3 * bound.standard_error + 0.01).all()
    kept = with_model(params, mask=avae.Mask.of(~hole[0])).model
    holes = with_model(params, missing=True).model
    two = kept.log_prob({}, x[0], x[1]), holes.log_prob({}, np.where(hole[0], np.nan, x[0]), x[1])
    np.testing.assert_allclose(*two, rtol=1e-6)  # a mask is the same hole in all images


# --- masks ----------------------------------------------------------------------------------------------------------


def test_discs():
    disc = avae.Mask.disc((5, 7)).weights[..., 0]
    assert disc.sum() == 21
    assert disc[2, 1:-1].all()
    assert not disc[:, [0, -1]].any()
    soft = avae.Mask.disc((32, 32), 0.8, edge=0.3)
    assert not soft.hard
    assert avae.Mask.disc((32, 32)).hard
    values = soft.weights[16, 16:, 0]
    assert (np.diff(values) <= 0).all()
    np.testing.assert_allclose(values[[0, 7, 13]], [1, 1, 0], atol=0.01)
    ball = avae.Mask.disc((8, 8, 8), 0.5)
    assert ball.shape == (8, 8, 8, 1)
    np.testing.assert_array_equal(ball.weights, ball.weights.transpose(2, 0, 1, 3))


def test_masks_are_values():
    a, b, c = (avae.Mask.disc((8, 8), radius) for radius in (0.5, 0.5, 0.6))
    assert a == b != c
    assert hash(a) == hash(b)
    assert len(repr(a)) < 100
    assert avae.Mask.of(a.weights) == a
    assert not a.weights.flags.writeable
    model = avae.Model(avae.MLP((8, 8, 1), hidden=(4,)), mask=a)
    small = avae.init(jax.random.key(0), model).reduced(2).model
    np.testing.assert_array_equal(small.mask.weights, block_means(a.weights, 2))


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (np.ones((8, 8)), r"\[\.\.\., None\]"),
        (np.zeros((8, 8, 1)), "zeros alone"),
        (-np.ones((8, 8, 1)), "64 that are negative"),
        (np.full((8, 8, 1), np.nan), "64 that are negative, NaN"),
        (np.array([[["a"]]]), "bool or real"),
    ],
)
def test_wrong_masks_are_named(weights, said):
    with pytest.raises(avae.Mistake, match=said):
        avae.Mask.of(weights)


def test_wrong_uses_of_masks_are_named(images, params):
    for wrong in (avae.Mask.disc((8, 8)), avae.Mask.of(np.ones((12, 12, 3)))):
        with pytest.raises(avae.Mistake, match=r"mask: expected shape \(12, 12, 1\)"):
            with_model(params, mask=wrong)
    with pytest.raises(avae.Mistake, match=r"see avae\.Mask\.of"):
        with_model(params, mask=np.ones((12, 12, 1)))
    with pytest.raises(avae.Mistake, match="edge"):
        avae.Mask.disc((8, 8), 0.5, edge=0.6)
    with pytest.raises(avae.Mistake, match="weights of 0 and 1"):
        check_likelihood(with_model(params, mask=avae.Mask.disc((12, 12), edge=0.5)))

    @dataclasses.dataclass(frozen=True)
    class Own(avae.Bernoulli):
        def log_prob(self, weights, x, mean):
            return super().log_prob(weights, x, mean)

    own = with_model(params, likelihood=Own())
    with pytest.raises(avae.Mistake, match="takes no `weight`"):
        avae.objective(own, masked(images, 0.0))
    assert bool(jnp.isfinite(avae.objective(own, images).total).all())


def test_wrong_masked_arrays_are_named(images, params):
    whole = np.ma.array(images, mask=HOLE.copy())
    whole[1] = np.ma.masked
    with pytest.raises(avae.Mistake, match=r"a pixel that counts, got none in 1 image\(s\), first at 1"):
        avae.objective(params, whole)
    covered = with_model(params, mask=avae.Mask.of(~HOLE[0]))
    with pytest.raises(avae.Mistake, match="a pixel that counts, got none in 3"):
        avae.objective(covered, np.ma.array(images, mask=~HOLE))
    bad = images.copy()
    bad[2, 0, 0] = np.nan
    with pytest.raises(avae.Mistake, match=r"in 1 image\(s\), first at 2; .*masked_invalid"):
        avae.objective(params, bad)
    with pytest.raises(avae.Mistake, match=r"first at 2$"):
        avae.objective(params, np.ma.array(bad, mask=HOLE))
    with pytest.raises(avae.Mistake, match=r"\[0, 1\]"):
        avae.objective(params, np.ma.array(images + 1, mask=HOLE))
    assert bool(jnp.isfinite(avae.objective(params, np.ma.masked_invalid(bad)).total).all())
    assert bool(jnp.isfinite(avae.objective(params, np.ma.array(images + 9 * HOLE, mask=HOLE)).total).all())


def test_inside_jit_a_model_may_say_that_pixels_are_missing(images, params):
    holes = masked(images, 0.0)
    inside = jax.jit(lambda x: avae.objective(with_model(params, missing=True), x).total)(holes.filled(np.nan))
    np.testing.assert_allclose(inside, avae.objective(params, holes).total, rtol=1e-6)


# --- configs --------------------------------------------------------------------------------------------------------


def test_a_run_keeps_its_mask(grey, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = np.ones((8, 8), np.float32)
    weights[0] = 0
    np.save("mask.npy", weights)
    grey.likelihood.mask = "mask.npy"
    model = experiment(grey).model
    assert model.mask == avae.Mask.of(weights[..., None])
    workdir = tmp_path / "run"
    run_folder.claim(workdir, grey)
    run_folder.check(workdir, grey)
    np.save("mask.npy", weights[::-1])
    with pytest.raises(avae.Mistake, match=r"mask: .* is not what the run was trained with"):
        run_folder.check(workdir, grey)
    (tmp_path / "mask.npy").unlink()
    moved = shutil.move(workdir, tmp_path / "moved")
    assert run_folder.load_experiment(moved).model.mask == model.mask
    with pytest.raises(avae.Mistake, match=r"likelihood.mask: expected None, .* got 'mask.npy'"):
        experiment(grey)
    grey.likelihood.mask = "disc"
    assert experiment(grey).model.mask == avae.Mask.disc((8, 8))
    with pytest.raises(avae.Mistake, match="another config"):
        run_folder.check(tmp_path / "moved", grey)


def test_runs_of_older_versions_have_no_mask(grey, tmp_path):
    config = complete(grey)
    del config["likelihood"]["mask"]
    (tmp_path / "config.json").write_text(json.dumps({"version": 1} | config))
    assert run_folder.load_experiment(tmp_path).model.mask is None
