"""The posterior of the pose: calibrated, multimodal, with known moments and entropies; and its pictures."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear import draw_images, linear_params, log_p_given_pose

import avae
from avae.inference.pose_proposal import Modes
from avae.inference.posterior import held_out
from avae.report.pose_figures import kernel_density, posterior_figure

GRID = np.linspace(-np.pi, np.pi, 360, endpoint=False, dtype=np.float32)[:, None]


@pytest.fixture(scope="module")
def rotated():
    """Model, images drawn from it, their true poses, and the posterior found."""
    params = linear_params(avae.Rotation(), scale=0.35)
    x, alpha = draw_images(params, 400, seed=3)
    return params, x, alpha, avae.pose_posterior(params, x, n_modes=2)


@pytest.fixture(scope="module")
def truth(rotated):
    """The posterior of the first 40 images on a grid of angles [40, 360], in closed form."""
    params, x, _, _ = rotated
    log_p = log_p_given_pose(params, x[:40], GRID)
    p = np.exp(log_p - log_p.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def test_credible_regions_are_calibrated(rotated):
    _, _, alpha, posterior = rotated
    coverage = np.mean(posterior.contains(alpha[:, None], 0.9))
    assert 0.85 < coverage < 0.95
    assert 0.42 < np.mean(posterior.contains(alpha[:, None], 0.5)) < 0.58


def test_credible_regions_are_not_wasteful(rotated, truth):
    _, _, _, posterior = rotated
    ordered = -np.sort(-truth, axis=1)
    smallest = (np.cumsum(ordered, axis=1) < 0.9).sum(axis=1) * (2 * np.pi / 360)
    found = np.asarray(posterior.volume(0.9))[:40]
    assert 0.85 < found.mean() / smallest.mean() < 1.25
    assert np.all(np.asarray(posterior.volume(0.5))[:40] < found)


def test_entropy_is_that_of_the_closed_form(rotated, truth):
    _, _, _, posterior = rotated
    expected = -np.sum(truth * np.log(np.maximum(truth, 1e-300) * 360 / (2 * np.pi)), axis=1)
    np.testing.assert_allclose(np.asarray(posterior.entropy)[:40].mean(), expected.mean(), atol=0.1)


def test_draws_follow_the_closed_form(rotated, truth):
    _, _, _, posterior = rotated
    drawn = posterior.sample(200)[:40, :, 0]
    assert drawn.shape == (40, 200)
    found = np.mean(np.exp(1j * np.asarray(drawn)), axis=1)
    expected = truth @ np.exp(1j * GRID[:, 0])
    assert np.mean(np.abs(found - expected)) < 0.12


def test_weights_and_moments(rotated):
    _, _, _, posterior = rotated
    np.testing.assert_allclose(np.sum(posterior.weights, axis=1), 1, atol=1e-4)
    single = np.asarray(posterior.weights)[:, 0] > 1 - 1e-5
    assert single.sum() > 50
    steps = jax.vmap(jax.vmap(avae.Rotation().step, in_axes=(None, 0)))(posterior.modes[:, 0], posterior.draws)
    second = np.sum(np.exp(posterior.log_weights) * np.asarray(steps)[..., 0] ** 2, axis=1)
    ratio = np.asarray(posterior.covariance)[single, 0, 0, 0] / second[single]
    np.testing.assert_allclose(np.median(ratio), 1, atol=0.05)  # the curvature counts as two draws
    np.testing.assert_allclose(ratio, 1, atol=0.6)


def test_density_integrates_to_one(rotated):
    _, _, _, posterior = rotated
    density = np.exp(posterior.log_density(np.broadcast_to(GRID, (400, 360, 1))))
    np.testing.assert_allclose(density.mean(axis=1) * 2 * np.pi, 1, atol=0.01)


def first_of(posterior):
    """Modes, draws and log weights of the first image."""
    alpha, covariance = posterior.modes[0], posterior.covariance[0]
    modes = Modes(alpha, jnp.zeros(len(alpha)), covariance, jnp.ones(len(alpha), bool))
    return modes, posterior.draws[0], posterior.log_weights[0]


def test_a_draw_is_judged_by_a_fit_to_others(rotated):
    modes, drawn, log_weights = first_of(rotated[-1])
    heights = held_out(modes, drawn, log_weights, avae.Rotation())
    for heavy in (0, 5, len(drawn) - 1):
        again = held_out(modes, drawn, log_weights.at[heavy].set(log_weights.max()), avae.Rotation())
        assert again[heavy] == heights[heavy]
        assert not np.allclose(again, heights, atol=1e-3)


def test_one_draw_with_all_the_weight_is_no_nan(rotated):
    modes, drawn, log_weights = first_of(rotated[-1])
    alone = jnp.full_like(log_weights, -jnp.inf).at[3].set(0.0)
    assert np.isfinite(held_out(modes, drawn, alone, avae.Rotation())).all()


def test_elements_of_a_finite_family_are_weighed():
    family = avae.QuarterTurns()
    params = linear_params(family, scale=1.5)
    x, alpha = draw_images(params, 100)
    posterior = avae.pose_posterior(params, x)
    log_p = log_p_given_pose(params, x, family.lattice)
    expected = np.exp(log_p - log_p.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    index = np.asarray(posterior.modes)[..., 0].astype(int)
    np.testing.assert_allclose(posterior.weights, np.take_along_axis(expected, index, axis=1), atol=0.1)
    entropy = -np.sum(expected * np.log(expected), axis=1)
    np.testing.assert_allclose(posterior.entropy, entropy, atol=0.1)
    assert np.mean(posterior.contains(alpha[:, None])) > 0.85
    np.testing.assert_allclose(posterior.volume(0.999), 4, atol=3)
    assert np.isin(posterior.sample(5), range(4)).all()


def test_object_that_looks_the_same_upside_down_has_two_modes():
    params = linear_params(avae.Rotation(), scale=0.35)  # the model of `rotated`: compiled once
    flip = params.weights["mean"] + params.weights["mean"][::-1, ::-1]
    params = params.replace(weights=params.weights | {"mean": flip, "basis": 0 * params.weights["basis"]})
    x, _ = draw_images(params, 400, seed=3)
    posterior = avae.pose_posterior(params, x, n_modes=2)
    apart = jax.vmap(avae.Rotation().distance)(posterior.modes[:, 0], posterior.modes[:, 1])
    assert np.mean(np.abs(np.asarray(apart) - np.pi) < 0.2) > 0.9
    assert 0.4 < np.mean(np.asarray(posterior.weights)[:, 0]) < 0.6


@pytest.mark.parametrize("family", [avae.Rotation(), avae.QuarterTurns()], ids=["ring", "bars"])
def test_figure(rotated, tmp_path, family):
    params, x, _, posterior = rotated
    if family.dof == 0:
        posterior = avae.pose_posterior(params, x[:3], transform=family, n_samples=4)
    figure = posterior_figure(np.asarray(x[:3]), posterior)
    figure.savefig(tmp_path / "posterior.png")
    assert (tmp_path / "posterior.png").stat().st_size > 10_000
    assert len(figure.axes) == (3 if family.dof else 6)


@pytest.mark.slow
@pytest.mark.parametrize("family", [avae.Rigid(), avae.Affine()], ids=lambda family: type(family).__name__)
def test_other_families_are_calibrated(family, tmp_path):
    params = linear_params(family, scale=0.3)
    x, alpha = draw_images(params, 400)
    posterior = avae.pose_posterior(params, x, n_samples=2048)
    assert 0.85 < np.mean(posterior.contains(alpha[:, None])) < 0.95
    posterior_figure(np.asarray(x), posterior).savefig(tmp_path / "posterior.png")


def test_kernel_density_wraps():
    at = np.linspace(-np.pi, np.pi, 361)
    density = kernel_density(np.array([3.1, -3.1]), np.array([3.0, 1.0]), at, 0.3, 2 * np.pi)
    np.testing.assert_allclose(density[0], density[-1])
    np.testing.assert_allclose(density[:-1].sum() * 2 * np.pi / 360, 1, rtol=1e-6)


def test_no_usable_draw_is_reported():
    params = linear_params(avae.QuarterTurns(), scale=1.5)
    posterior = avae.pose_posterior(params, jnp.full((1, 12, 12, 1), 1e25), n_samples=4)  # its square overflows
    assert posterior.evidence.value[0] == -jnp.inf
    np.testing.assert_allclose(posterior.log_weights, -np.log(4), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_modes": 49}, "n_modes: expected 1 to 48, as many as the search has starts"),
        ({"n_samples": 1}, "n_samples: expected at least 2"),
        ({"key": 0}, "key: expected one typed key"),
        ({"transform": avae.Rigid3D()}, "transform: expected a family of dimension 2"),
    ],
)
def test_bad_options(params, images, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        avae.pose_posterior(params, images, **options)


def test_bad_questions(rotated):
    _, _, alpha, posterior = rotated
    with pytest.raises(ValueError, match=re.escape("alpha: expected poses [400, n, 1], got shape (400, 1)")):
        posterior.contains(alpha)
    with pytest.raises(ValueError, match=re.escape("mass: expected 0 < mass < 1, got 90")):
        posterior.level(90)
    with pytest.raises(ValueError, match="key: expected one typed key"):
        posterior.sample(3, key=1)
