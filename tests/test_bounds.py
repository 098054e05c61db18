"""Bounds lie below log p(x), tighten, and are told from look-alikes that do not; truth is a closed form."""

import dataclasses
import re
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear import LATENT, Linear, draw_images, linear_params, log_mean_exp, log_p_given_pose

import avae
from avae.config import default, experiment
from avae.data import dataset as data
from avae.inference.checks import check_likelihood
from avae.inference.importance import log_mean
from avae.networks.paper_loss import PaperLoss
from avae.objective import batch_terms
from avae.settings import plan
from avae.training import loop, run_folder
from avae.transforms.factors import Box

GRID = np.linspace(-np.pi, np.pi, 720, endpoint=False, dtype=np.float32)[:, None]
N = 24


@dataclasses.dataclass(frozen=True)
class Problem:
    params: Any
    x: Any
    alpha: Any
    truth: Any


@pytest.fixture(scope="module")
def rotated():
    """Images from the model, and their log p(x): for each of 720 poses in closed form, then the mean over poses."""
    params = linear_params(avae.Rotation())
    x, alpha = draw_images(params, N)
    return Problem(params, x, alpha, log_mean_exp(log_p_given_pose(params, x, GRID)))


@pytest.fixture(scope="module")
def quarter_turned():
    params = linear_params(avae.QuarterTurns(), scale=1.0)
    x, alpha = draw_images(params, N)
    return Problem(params, x, alpha, log_mean_exp(log_p_given_pose(params, x, avae.QuarterTurns().lattice)))


def excess(values, errors, truth):
    """By how many of its standard errors the mean over images of what should be a lower bound lies above the truth."""
    error = np.sqrt(np.sum(np.asarray(errors) ** 2)) / len(truth)
    return (np.mean(values) - np.mean(truth)) / error


def gap(bound, truth):
    return np.mean(truth - np.asarray(bound.value))


def bound(problem, method="importance", key=None, n_samples=None):
    """Few shapes, so that few searches are compiled."""
    n_samples = n_samples or (4 if method == "quadrature" else 256)
    return avae.log_likelihood(problem.params, problem.x, method=method, key=key, n_samples=n_samples)


@pytest.mark.parametrize("method", ["multi_start", "laplace", "importance", "quadrature"])
def test_bounds_lie_below_the_closed_form(rotated, method):
    found = bound(rotated, method)
    assert excess(found.value, found.standard_error, rotated.truth) < 3
    assert np.all(np.asarray(found.value) < rotated.truth + 5 * np.asarray(found.standard_error) + 0.5)


@pytest.mark.parametrize("method", ["finite", "importance", "multi_start"])
def test_bounds_on_a_finite_family(quarter_turned, method):
    found = bound(quarter_turned, method)
    assert excess(found.value, found.standard_error, quarter_turned.truth) < 3
    assert abs(gap(found, quarter_turned.truth)) < 0.03


def test_point_mass_on_a_finite_family_pays_log_k(quarter_turned):
    params, x = quarter_turned.params, quarter_turned.x
    found = bound(quarter_turned, "laplace")
    best = log_p_given_pose(params, x, avae.QuarterTurns().lattice).max(axis=1) - np.log(4)
    assert excess(found.value, found.standard_error, best) < 3
    np.testing.assert_allclose(np.mean(found.value), np.mean(best), atol=0.3)  # the encoder's own gap


def test_importance_and_quadrature_are_tight(rotated):
    importance, quadrature = bound(rotated), bound(rotated, "quadrature")
    assert abs(gap(quadrature, rotated.truth)) < 0.05
    assert abs(gap(importance, rotated.truth)) < 0.1
    assert np.mean(importance.effective_samples) > 50
    assert np.abs(np.asarray(importance.value) - rotated.truth).max() < 1.0


@pytest.mark.parametrize("method", ["multi_start", "importance"])
def test_more_samples_tighten(rotated, method):
    keys = jax.random.split(jax.random.key(3), 3)
    few, many = (np.mean([gap(bound(rotated, method, key, n), rotated.truth) for key in keys]) for n in (2, 256))
    assert few > many + 0.05


def test_standard_errors_are_those_of_repetition(rotated):
    bounds = [bound(rotated, key=key) for key in jax.random.split(jax.random.key(1), 12)]
    spread = np.std([found.value for found in bounds], axis=0, ddof=1)
    claimed = np.mean([found.standard_error for found in bounds], axis=0)
    assert 0.75 < np.sqrt(np.mean(spread**2) / np.mean(claimed**2)) < 1.33


def log_weights(params, x, poses, key):
    """log p(x, z | alpha) - log q(z | x, alpha) [B, K] at poses [B, K, size], with z drawn."""
    from avae.inference.importance import Problem as Draws

    def one(x, poses, key):
        problem = Draws(params, x, params.model.transform, plan(params.model), 2, 1)
        return jax.vmap(problem.log_weight)(poses, jax.random.split(key, len(poses)))

    return jax.jit(jax.vmap(one))(x, poses, jax.random.split(key, len(x)))


def wrong_bound(name, params, x):
    """Three tempting mistakes, as values [B] and standard errors [B]."""
    transform, key = params.model.transform, jax.random.key(7)
    prior = jax.vmap(jax.vmap(transform.sample))(jax.random.split(key, (len(x), 256)))
    found = avae.align(params, x)
    if name == "max without log K":
        return log_weights(params, x, prior, key).max(axis=1), np.full(len(x), 0.1)
    if name == "refined pose as a draw from the prior":
        poses = prior[:, :8].at[:, 0].set(found.alpha)
        draws = [log_weights(params, x, poses, key) for key in jax.random.split(key, 4)]
        found = jax.vmap(log_mean)(jnp.stack(draws, axis=1).reshape(len(x), 1, -1))
        return found.value, found.standard_error
    poses = jnp.asarray(GRID)  # z at the posterior mean, the KL analytic: what J holds
    losses = jax.lax.map(lambda pose: batch_terms(params, x, jnp.tile(pose, (len(x), 1))).total, poses)
    return log_mean_exp(-np.asarray(losses, np.float64).T), np.full(len(x), 0.05)


mistakes = pytest.mark.parametrize(
    "mistake", ["max without log K", "refined pose as a draw from the prior", "z at the posterior mean"]
)


@mistakes
def test_mistakes_are_caught(rotated, mistake):
    values, errors = wrong_bound(mistake, rotated.params, rotated.x)
    assert excess(values, errors, rotated.truth) > 3


def test_plain_vae_is_the_family_of_one_pose():
    params = linear_params(avae.Rotation())
    x, _ = draw_images(params, 8)
    found = avae.log_likelihood(params, x, method="iwae", n_samples=512)
    truth = log_p_given_pose(params, x, params.model.transform.identity[None])[:, 0]
    np.testing.assert_allclose(found.value, truth, atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("family", [avae.Rigid(), avae.Affine(), avae.Translation()], ids=lambda f: type(f).__name__)
def test_other_families_agree_with_many_draws_from_the_prior(family):
    params = linear_params(family, scale=1.0)
    x, _ = draw_images(params, 8)
    many = avae.log_likelihood(params, x, method="multi_start", n_samples=4096)
    few = avae.log_likelihood(params, x, search=avae.Search(n_starts=32, top_k=4, n_refined=4, n_steps=4))
    error = np.hypot(few.standard_error, many.standard_error)
    assert np.mean((few.value - many.value) / error) < 3 / np.sqrt(8)
    np.testing.assert_allclose(np.mean(few.value), np.mean(many.value), atol=0.2)


@pytest.mark.slow
def test_volumes():
    network = avae.MLP(image_shape=(6, 6, 6, 1), hidden=(8,), latent=2)
    params = avae.init(jax.random.key(0), avae.Model(networks=network, transform=avae.Rigid3D()))
    x = jax.random.uniform(jax.random.key(1), (2, 6, 6, 6, 1))
    found = avae.log_likelihood(params, x, n_samples=1024, search=avae.Search(n_starts=8, top_k=2, n_local=()))
    prior = avae.log_likelihood(params, x, method="multi_start", n_samples=2**15)
    error = np.hypot(found.standard_error, prior.standard_error)
    np.testing.assert_allclose(found.value, prior.value, atol=4 * error.max())


def test_unlike_images_have_a_low_bound(rotated):
    noise = 5 * jax.random.normal(jax.random.key(0), rotated.x.shape)
    found = bound(dataclasses.replace(rotated, x=noise))
    assert np.isfinite(found.value).all()
    assert np.all(np.asarray(found.value) < rotated.truth.min() - 100)


def test_no_weight_at_all_is_reported():
    found = log_mean(jnp.full((1, 4), -jnp.inf))
    assert found.value == -jnp.inf
    assert found.standard_error == jnp.inf
    assert found.effective_samples == 0


@dataclasses.dataclass(frozen=True)
class Hollow(Linear):
    """The encoder says z = 0, where the decoder has no answer: J is NaN at every pose, though p(x) is not."""

    def encode(self, weights, x):
        return jnp.zeros(LATENT), jnp.zeros(LATENT)

    def decode(self, weights, z):
        return jnp.where(jnp.any(z != 0), super().decode(weights, z), jnp.nan)


def test_modes_without_a_loss_leave_the_bound_a_bound():
    """Draws come from the prior then, and must be weighed as such: by the mixture's tenth they weigh ten times more."""
    params = linear_params(avae.Rotation(), scale=1.0)
    x, _ = draw_images(params, 6)
    hollow = avae.Params(params.weights, dataclasses.replace(params.model, networks=Hollow()))
    search = avae.Search(n_starts=4, top_k=1, n_local=(), n_refined=1, n_steps=1)
    found = avae.log_likelihood(hollow, x, n_samples=512, n_modes=2, search=search)
    truth = log_mean_exp(log_p_given_pose(params, x, GRID[::8]))
    np.testing.assert_allclose(found.value, truth, atol=1.0)
    assert abs(np.mean(found.value - truth)) < 0.3


@dataclasses.dataclass(frozen=True)
class Everywhere(avae.Transform):
    dim: ClassVar[int] = 2

    @property
    def factors(self):
        return (Box((float("inf"),)),)

    def matrix(self, alpha):
        return jnp.array([[1, 0, 0], [0, 1, 0]]) + 0 * alpha[0]


@dataclasses.dataclass(frozen=True)
class SquaredError(avae.Gaussian):
    def log_prob(self, weights, x, mean):
        return -jnp.sum((x - mean) ** 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, "method: expected one of"),
        ({"method": "finite"}, 'method "finite" expects a finite family'),
        ({"method": "quadrature", "transform": avae.Rigid()}, "expects a family of one dimension"),
        ({"n_samples": 1}, "n_samples: expected at least 2"),
        ({"n_modes": 49}, "n_modes: expected 1 to 48, as many as the search has starts, got 49"),
        ({"n_modes": 0}, "n_modes: expected 1 to 48"),
        ({"key": 0}, "key: expected one typed key"),
        ({"transform": avae.Rotation3D()}, "transform: expected a family of dimension 2"),
        ({"transform": Everywhere()}, "transform: expected a family with a proper prior"),
    ],
)
def test_bad_options(params, images, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        avae.log_likelihood(params, images, **options)


def test_bad_images(params, images):
    with pytest.raises(ValueError, match="Bernoulli"):
        avae.log_likelihood(params, images + 2)


def test_bad_weights(params, images):
    broken = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), params)
    with pytest.raises(ValueError, match="params: expected finite weights"):
        avae.log_likelihood(broken, images)


def test_squared_error_is_no_likelihood():
    params = linear_params(avae.Rotation())
    model = dataclasses.replace(params.model, likelihood=SquaredError(1.0))
    x, _ = draw_images(params, 2)
    with pytest.raises(ValueError, match=r"likelihood: expected one that is normalised.* `normalised = True`"):
        avae.log_likelihood(avae.Params(params.weights, model), x)


@pytest.mark.parametrize("likelihood", [PaperLoss(), object()])
def test_other_losses_are_no_likelihoods(params, images, likelihood):
    odd = avae.Params(params.weights, dataclasses.replace(params.model, likelihood=likelihood))
    with pytest.raises(ValueError, match="likelihood: expected one"):
        check_likelihood(odd)


@dataclasses.dataclass(frozen=True)
class PerChannel(avae.Gaussian):
    """Normal pixels with a scale for each channel."""

    scales: tuple[float, ...] = (0.1, 0.5, 2.0)

    normalised: ClassVar[bool] = True

    def log_prob(self, weights, x, mean):
        scales = jnp.broadcast_to(jnp.array(self.scales), x.shape)
        return jnp.sum(-0.5 * ((x - mean) / scales) ** 2 - jnp.log(scales) - 0.5 * jnp.log(2 * jnp.pi))


def test_a_likelihood_of_one_s_own_with_a_scale_per_channel():
    model = avae.Model(avae.MLP((4, 4, 3), 2, (3,)), PerChannel(), avae.QuarterTurns())
    params = avae.init(jax.random.key(0), model)
    x = jax.random.normal(jax.random.key(1), (2, 4, 4, 3))
    found = avae.log_likelihood(params, x, method="finite", n_samples=2)
    assert np.isfinite(found.value).all()


def test_likelihoods_are_looked_at_under_a_trace(params, images):
    """The weights lie at hand there, but what is computed with them does not."""
    bound = lambda x: avae.log_likelihood(params, x, method="multi_start", n_samples=2).value  # noqa: E731
    assert jax.eval_shape(jax.jit(bound), images).shape == (3,)


@pytest.mark.parametrize("scale", [1e-3, 0.1, 30.0])
def test_gaussians_are_likelihoods(scale):
    check_likelihood(linear_params(avae.Rotation(), scale=scale))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """An AVAE trained for some epochs, and rotated test digits."""
    workdir = tmp_path_factory.mktemp("digits")
    config = default()
    config.train.update(epochs=8, search_every=4)
    run_folder.claim(workdir, config)
    params = loop.fit(experiment(config), workdir)
    return params, data.load(data.Data(n_train=16, n_test=128)).test.images


@pytest.fixture(scope="module")
def integrated(digits):
    """Log p(x) of the digits by quadrature over 720 poses."""
    return avae.log_likelihood(*digits, method="quadrature", n_samples=8)


def excess_over(integrated, values, errors):
    """`excess` over a quadrature that has an error of its own."""
    return excess(values, np.hypot(errors, integrated.standard_error), np.asarray(integrated.value))


@pytest.mark.slow
def test_trained_digits(digits, integrated):
    """The order of the bounds, and B4 within 0.1 nats of the quadrature."""
    draws = {"multi_start": (16, 256), "laplace": (64,), "importance": (16, 256)}
    means = {}
    for method, n_samples in ((method, n) for method, numbers in draws.items() for n in numbers):
        found = avae.log_likelihood(*digits, method=method, n_samples=n_samples)
        assert excess_over(integrated, found.value, found.standard_error) < 3, (method, n_samples)
        means[method, n_samples] = np.mean(found.value)
    assert abs(means["importance", 256] - np.mean(integrated.value)) < 0.1
    assert means["importance", 256] > max(means["importance", 16], means["laplace", 64])
    assert means["multi_start", 256] > means["multi_start", 16]


@pytest.mark.slow
@mistakes
def test_mistakes_are_caught_on_trained_digits(digits, integrated, mistake):
    params, x = digits
    assert excess_over(integrated, *wrong_bound(mistake, params, jnp.asarray(x))) > 3
