"""Pose and latent together: the law near a mode is the closed form's, its density that of its draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear import LATENT, SCALE, draw_images, linear_params, log_mean_exp, log_p_given_pose

import avae
from avae.inference import latent_proposal as joint
from avae.inference.bounds import importance, iwae
from avae.inference.importance import Problem
from avae.inference.pose_proposal import Modes, around_modes
from avae.networks.vae import Posterior
from avae.settings import Plan
from avae.transforms.planar import Still

GRID = np.linspace(-np.pi, np.pi, 720, endpoint=False, dtype=np.float32)[:, None]
N = 24


def careless(family, scale=SCALE):
    """A model whose encoder is half as wide as the posterior of z, and beside it."""
    params = linear_params(family, scale=scale)
    weights = params.weights | {"gain": 0.6 * params.weights["gain"], "logvar": params.weights["logvar"] - np.log(4)}
    return params.replace(weights=weights)


def bounds(method, params, x, n_samples=256):
    """The bound of each image; compiled anew for each call, so that a patched function is seen."""
    family, search = params.model.transform, avae.Search(n_starts=16, n_local=())

    def one(x, key):
        return method(Problem(params, x, family, Plan(search, False), n_samples, 2), key)

    return jax.jit(jax.vmap(one))(x, jax.random.split(jax.random.key(2), len(x)))


def excess(found, truth):
    """By how many standard errors of the mean over images the bound lies above the truth."""
    error = np.sqrt(np.sum(np.asarray(found.standard_error) ** 2)) / len(truth)
    return (np.mean(found.value) - np.mean(truth)) / error


def test_law_near_a_mode_is_the_closed_form():
    """At a given pose z is normal: its mean, its covariance, and log p(x | alpha) up to a constant."""
    params = careless(Still())
    x, _ = draw_images(params, 6)
    still = Modes(jnp.zeros((1, 1)), jnp.zeros(1), jnp.zeros((1, 0, 0)), jnp.ones(1, bool))
    modes, latents = jax.jit(jax.vmap(lambda x: joint.refine_jointly(params, x, still, Still())))(x)
    basis = np.asarray(params.weights["basis"], np.float64).reshape(-1, LATENT)
    covariance = np.linalg.inv(np.eye(LATENT) + basis.T @ basis / SCALE**2)
    residual = (np.asarray(x) - np.asarray(params.weights["mean"])).reshape(len(x), -1)
    np.testing.assert_allclose(latents.mean[:, 0], residual @ basis @ covariance / SCALE**2, atol=1e-3)
    found = np.asarray(latents.root[:, 0])
    np.testing.assert_allclose(found @ found.swapaxes(1, 2), np.tile(covariance, (len(x), 1, 1)), atol=1e-5)
    truth = log_p_given_pose(params, x, np.zeros((1, 1), np.float32))[:, 0]
    np.testing.assert_allclose(np.diff(-modes.loss[:, 0]), np.diff(truth), atol=1e-2)


def test_latent_follows_the_pose():
    """The slope is that of the best z as the pose is moved; Gauss-Newton's curvature is true without noise."""
    family = avae.Rotation()
    params = careless(family)
    alpha, z = jnp.array([0.7]), jnp.array([0.4, -0.3])
    loss = joint.joint_loss(params, family)
    x = loss.predict(jnp.zeros((12, 12, 1)), (alpha, z))[0]
    near = Modes(alpha[None] + 0.02, jnp.zeros(1), jnp.full((1, 1, 1), 0.01), jnp.ones(1, bool))
    modes, latents = jax.jit(lambda: joint.refine_jointly(params, x, near, family))()
    np.testing.assert_allclose(modes.alpha[0], alpha, atol=0.02)

    def best(alpha):
        gradient, hessian = jax.grad(energy, 1)(alpha, z), jax.hessian(energy, 1)(alpha, z)
        return z - jnp.linalg.solve(hessian, gradient)

    def energy(alpha, z):
        return loss(x, (alpha, z))

    slope = (best(modes.alpha[0] + 0.01) - best(modes.alpha[0] - 0.01)) / 0.02
    np.testing.assert_allclose(latents.slope[0, :, 0], slope, atol=0.1 * np.abs(slope).max())


def law(weights=(0.5, 0.3, 0.2)):
    """Two normals and an encoder's law, all apart."""
    root = jnp.array([[[0.5, 0.0], [0.3, 0.4]], [[1.0, 0.0], [0.0, 0.2]]])
    encoder = Posterior(jnp.array([0.5, -1.0]), jnp.array([-1.0, 0.5]))
    return joint.Conditional(
        jnp.array([[0.0, 0.0], [2.0, 1.0]]), root, jnp.linalg.inv(root), encoder, jnp.log(jnp.array(weights))
    )


def test_densities_are_those_of_the_draws():
    side = np.linspace(-6, 8, 401, dtype=np.float32)
    grid = jnp.stack(jnp.meshgrid(side, side), axis=-1).reshape(-1, 2)
    cell = (side[1] - side[0]) ** 2
    density = np.exp(jax.vmap(lambda z: joint.latent_log_density(law(), z))(grid)) * cell
    np.testing.assert_allclose(density.sum(), 1, atol=1e-3)
    drawn = jax.vmap(lambda key: joint.draw_latent(law(), key))(jax.random.split(jax.random.key(0), 20_000))
    np.testing.assert_allclose(drawn.mean(axis=0), density @ grid, atol=0.04)
    second = np.einsum("n,ni,nj->ij", density, grid, grid)
    np.testing.assert_allclose(drawn.T @ drawn / len(drawn), second, atol=0.08)


def test_far_from_all_modes_the_encoder_answers():
    params = careless(avae.Rotation())
    modes = Modes(jnp.zeros((2, 1)), jnp.zeros(2), jnp.full((2, 1, 1), 0.01), jnp.array([True, False]))
    latents = joint.Latents(jnp.zeros((2, 2)), jnp.ones((2, 2, 1)), *(jnp.tile(jnp.eye(2), (2, 1, 1)) for _ in "rw"))
    q, encoder = around_modes(modes, 0.1, avae.Rotation()), Posterior(jnp.zeros(2), jnp.zeros(2))

    def weights(angle):
        found = joint.given_pose(joint.Proposal(q, latents), jnp.array([angle]), encoder, params.model.transform)
        return np.exp(found.log_weight)

    np.testing.assert_allclose(weights(0.0), [1 - joint.ENCODER, 0, joint.ENCODER], atol=0.01)
    np.testing.assert_allclose(weights(2.0), [0, 0, 1], atol=1e-6)


@pytest.mark.slow
def test_bounds_with_a_careless_encoder_are_tight(monkeypatch):
    """B4 at the closed form; and not so where the encoder alone proposes z, or its share is left out of the density."""
    params = careless(avae.Rotation())
    x, _ = draw_images(params, N)
    truth = log_mean_exp(log_p_given_pose(params, x, GRID))
    refined = bounds(importance, params, x)
    assert excess(refined, truth) < 3
    assert np.mean(truth - refined.value) < 0.05
    assert np.mean(refined.effective_samples) > 100

    monkeypatch.setattr(joint, "ENCODER", 1 - 1e-6)
    assert np.mean(truth - bounds(importance, params, x).value) > 0.2


def test_density_without_the_encoder_is_caught(monkeypatch):
    params = careless(Still())
    x, _ = draw_images(params, N)
    truth = log_p_given_pose(params, x, np.zeros((1, 1), np.float32))[:, 0]
    right = bounds(iwae, params, x)
    assert excess(right, truth) < 3
    np.testing.assert_allclose(right.value, truth, atol=0.3)

    def without(law, z):
        return whole(law._replace(log_weight=law.log_weight.at[-1].set(-jnp.inf)), z)

    whole = joint.latent_log_density
    monkeypatch.setattr("avae.inference.importance.latent_log_density", without)
    assert excess(bounds(iwae, params, x), truth) > 3


@pytest.mark.slow
def test_credible_regions_with_a_careless_encoder_are_calibrated():
    params = careless(avae.Rotation(), scale=0.35)
    x, alpha = draw_images(params, 400, seed=3)
    posterior = avae.pose_posterior(params, x, n_modes=2)
    assert 0.85 < np.mean(posterior.contains(alpha[:, None], 0.9)) < 0.95
    assert 0.42 < np.mean(posterior.contains(alpha[:, None], 0.5)) < 0.58
