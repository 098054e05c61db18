"""Images of any brightness under the Gaussian: a gain and an offset of each image, integrated out."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear import draw_images, linear_params
from scipy import stats
from template import SIDE, errors, picture, template, turned
from test_background import DEGREES, grey as grey

import avae
from avae.config import complete, experiment
from avae.inference.checks import check_likelihood
from avae.training import run_folder

SHAPE = (3, 4, 2)


def density(x, mean, scale, gain, offset, there, level=0.0):
    """The log density of the pixels that are there, by SciPy."""
    x, mean = x.ravel()[there], mean.ravel()[there]
    y, n = mean - level, len(x)
    covariance = scale**2 * np.eye(n) + gain**2 * np.outer(y, y) + offset**2 * np.ones((n, n))
    return stats.multivariate_normal.logpdf(x, mean, covariance)


@pytest.mark.parametrize(("gain", "offset"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.7), (0.3, 0.7), (20.0, 30.0)])
@pytest.mark.parametrize("scale", [0.1, None])
@pytest.mark.parametrize("holes", [False, True])
def test_the_density_is_scipys(gain, offset, scale, holes, x64):
    rng = np.random.default_rng(0)
    mean = rng.random(SHAPE)
    x = 1.4 * mean + 0.3 + 0.1 * rng.normal(size=SHAPE)
    weight = (rng.random(SHAPE) > 0.3).astype(float) if holes else np.ones(SHAPE)
    likelihood = avae.Gaussian(scale, gain, offset)
    weights = {"log_scale": np.log(0.2)}
    expected = density(x, mean, scale or 0.2, gain, offset, weight.ravel() > 0)
    given = (weight,) if holes else ()
    np.testing.assert_allclose(likelihood.log_prob(weights, x, mean, *given), expected, rtol=1e-9)
    np.testing.assert_allclose(likelihood.log_prob_raw(weights, x, mean, *given), expected, rtol=1e-9)


def test_single_precision_keeps_it():
    """8,000 pixels, of which nearly all is brightness."""
    rng = np.random.default_rng(0)
    mean = rng.random((90, 90, 1))
    x = 2.5 * mean + 3 + 0.01 * rng.normal(size=mean.shape)
    likelihood = avae.Gaussian(0.01, 1.0, 3.0)
    with jax.enable_x64(True):
        exact = float(likelihood.log_prob({}, x, mean))
    single = likelihood.log_prob({}, np.float32(x), np.float32(mean))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, exact, atol=0.5)  # of 25,000 nats


def test_without_brightness_nothing_changes():
    rng = np.random.default_rng(0)
    x, mean = rng.random((2, *SHAPE), np.float32)
    programs = [
        str(jax.make_jaxpr(lambda x, one=one: one.log_prob({}, x, mean))(x))
        for one in (avae.Gaussian(0.1), avae.Gaussian(0.1, 0.0, 0.0), avae.Gaussian(0.1, 0.2))
    ]
    assert programs[0] == programs[1] != programs[2]


def test_brightness_is_found():
    rng = np.random.default_rng(0)
    mean = rng.random((20, 20, 1))
    x = 1.3 * mean - 0.2 + 0.05 * rng.normal(size=mean.shape)
    g, o = avae.Gaussian(0.05, 0.5, 0.5).brightness({}, x, mean)
    np.testing.assert_allclose((g, o), (1.3, -0.2), atol=0.03)
    assert avae.Gaussian(0.05).brightness({}, x, mean) == (1, 0)
    hit = np.zeros(mean.shape)
    hit[:5] = 1
    struck, likelihood = np.where(hit, 9.0, x), avae.Gaussian(0.05, 0.5, 0.5)
    np.testing.assert_allclose(likelihood.brightness({}, struck, mean, 1 - hit), (1.3, -0.2), atol=0.03)


def test_a_bright_image_has_the_pose_and_the_loss_of_a_dim_one():
    ink = picture()
    dim = turned(ink, DEGREES)
    bright = np.float32(1.3 * dim + 0.2)
    params = template(ink, avae.Gaussian(0.1, gain=0.5, offset=0.5))
    found, other = avae.align(params, dim), avae.align(params, bright)
    assert np.degrees(np.abs(found.alpha - other.alpha)).max() < 0.1
    assert errors(params, bright, DEGREES).max() < 1
    assert np.abs(found.loss - other.loss).max() < 3
    plain = avae.Gaussian(0.1)
    assert plain.log_prob({}, dim[0], dim[0]) - plain.log_prob({}, bright[0], dim[0]) > 1000


def test_a_constant_image_has_no_pose():
    search = {"n_starts": 4, "top_k": 1, "n_refined": 1, "n_steps": 2}
    lit = avae.Gaussian(0.1, gain=5.0, offset=0.5)
    constant = np.full((1, SIDE, SIDE, 1), 0.3, np.float32)
    blank = avae.align(template(np.full((SIDE, SIDE), 0.3), lit, background=0.3), constant, search=search)
    assert np.isinf(blank.std).all()  # a decoder that shows nothing
    found = avae.align(template(picture(), lit), constant, search=search)
    assert (found.std > np.pi).all()  # no object in the image
    assert not any(np.isnan(leaf).any() for leaf in jax.tree.leaves((blank, found)))
    told = avae.align(template(picture(), lit), turned(picture(), [0.0]), search=search)
    assert (told.std < 0.1).all()


def test_gain_is_that_of_the_contrast_above_the_background():
    ink = 0.4 + 0.5 * picture()
    rng = np.random.default_rng(0)
    x = np.float32(0.4 + 1.3 * (ink - 0.4) + 0.1 * rng.normal(size=ink.shape))[..., None]
    model = template(ink, avae.Gaussian(0.1, 0.3, 0.2), background=0.4).model
    there = np.ones(ink.size, bool)
    expected = density(np.float64(x), ink, 0.1, 0.3, 0.2, there, level=0.4)
    np.testing.assert_allclose(model.log_prob({}, x, np.float32(ink)[..., None]), expected, atol=0.01)
    np.testing.assert_allclose(model.log_prob_raw({}, x, np.float32(ink)[..., None]), expected, atol=0.01)
    wrong = density(np.float64(x), ink, 0.1, 0.3, 0.2, there)
    assert abs(wrong - expected) > 0.1


@pytest.mark.slow
def test_bounds_stay_bounds():
    """A linear decoder with Gaussian brightness: log p(x | z) is not jointly normal, so that p(x) is summed over z."""
    params = linear_params(avae.Rotation())
    likelihood = avae.Gaussian(0.25, gain=0.2, offset=0.3)
    params = params.replace(model=dataclasses.replace(params.model, likelihood=likelihood))
    check_likelihood(params)
    x = draw_images(params, 2)[0] * 1.2 + 0.1
    grid = np.linspace(-6, 6, 81)
    z = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2).astype(np.float32)

    @jax.jit
    @jax.vmap
    def log_joint(z):
        mean = params.model.decode(params.weights, z)
        prior = -0.5 * jnp.sum(z**2) - jnp.log(2 * jnp.pi)
        return jax.vmap(lambda x: likelihood.log_prob(params.weights, x, mean))(x) + prior

    cell = 2 * np.log(grid[1] - grid[0])
    exact = jax.nn.logsumexp(log_joint(z), axis=0) + cell
    bound = avae.log_likelihood(params, x, method="iwae", n_samples=256)
    assert (bound.value < exact + 3 * bound.standard_error + 0.02).all()
    np.testing.assert_allclose(bound.value, exact, atol=0.5)


@pytest.mark.parametrize("wrong", [{"gain": -0.1}, {"offset": -1.0}, {"gain": float("nan")}, {"offset": float("inf")}])
def test_wrong_settings_are_named(wrong):
    with pytest.raises(avae.Mistake, match="gain and offset of at least 0"):
        avae.Gaussian(0.1, **wrong)


def test_a_config_of_brightness(grey, tmp_path):
    grey.likelihood.gain = 0.2
    with pytest.raises(avae.Mistake, match=r"likelihood\.gain: expected 0 for the bernoulli likelihood, got 0\.2"):
        experiment(grey)
    grey.likelihood.name = "gaussian"
    assert experiment(grey).model.likelihood == avae.Gaussian(None, 0.2, 0.0)
    config = complete(grey)
    del config["likelihood"]["gain"], config["likelihood"]["offset"]
    (tmp_path / "config.json").write_text(json.dumps({"version": 1} | config))
    assert run_folder.load_experiment(tmp_path).model.likelihood == avae.Gaussian()
