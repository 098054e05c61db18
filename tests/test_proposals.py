"""Mixtures of poses: their densities are those of their draws, on every family; modes are found apart."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import avae
from avae.inference.pose_proposal import Modes, around_modes, distinct_modes, draw, log_density, mixture, spaced
from avae.transforms.quaternions import Rotations

FAMILIES = [avae.Rotation(), avae.Affine(), avae.Rotation3D(), avae.Rigid3D(), avae.CubeRotations()]


def some_mixture(family, prior, width, seed=0):
    """Three modes, of which two are at the identity and one anywhere, with correlated covariances."""
    rng = np.random.default_rng(seed)
    centre = jnp.stack([family.identity, family.identity, family.sample(jax.random.key(5))])
    root = width * np.tril(rng.normal(0, 0.4, (3, family.dof, family.dof)) + np.eye(family.dof))
    return mixture(centre, jnp.asarray(root @ root.swapaxes(1, 2), jnp.float32), jnp.log(jnp.ones(3)), prior, family)


def draws(q, family, n, seed=1):
    poses = jax.jit(jax.vmap(lambda key: draw(q, family, key)))(jax.random.split(jax.random.key(seed), n))
    return poses, jax.jit(jax.vmap(lambda alpha: log_density(q, family, alpha)))(poses)


@pytest.mark.parametrize("width", [0.05, 1.5], ids=["narrow", "cut"])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: type(family).__name__)
def test_densities_are_those_of_the_draws(family, width):
    q = some_mixture(family, 0.3, width)
    n = 5_000
    poses, density = draws(q, family, n)
    log_prior = jax.vmap(family.log_prior)(poses)
    assert np.isfinite(log_prior).all()  # every draw lies in the family
    ratio = np.exp(np.asarray(log_prior - density))  # at most 1 / 0.3
    np.testing.assert_allclose(ratio.mean(), 1, atol=4 * ratio.std() / math.sqrt(n) + 1e-5)

    outside = jnp.exp(family.log_prior(family.identity)) * 0.3  # the least density there is
    assert np.asarray(density).min() >= math.log(outside) - 1e-3


@pytest.mark.parametrize("family", FAMILIES[:4], ids=lambda family: type(family).__name__)
def test_densities_integrate_to_one(family):
    q = some_mixture(family, 0.0, 1.5)
    poses = jax.vmap(family.sample)(jax.random.split(jax.random.key(0), 40_000))
    density = jax.jit(jax.vmap(lambda alpha: log_density(q, family, alpha)))(poses)
    ratio = np.exp(np.asarray(density - family.log_prior(family.identity), np.float64))
    error = ratio.std() / math.sqrt(len(ratio))
    assert error < 0.2
    np.testing.assert_allclose(ratio.mean(), 1, atol=4 * error)


def test_narrow_component_is_normal():
    family = avae.Rigid()
    covariance = np.array([[0.02, 0.003, 0], [0.003, 0.001, 0.0002], [0, 0.0002, 0.001]], np.float32)
    q = mixture(family.identity[None], jnp.asarray(covariance)[None], jnp.zeros(1), 0.0, family)
    poses, density = draws(q, family, 20_000)
    np.testing.assert_allclose(np.cov(np.asarray(poses).T), covariance, atol=6e-4)
    expected = -0.5 * np.einsum("ni,ij,nj->n", poses, np.linalg.inv(covariance), poses)
    expected -= 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]
    np.testing.assert_allclose(density, expected, atol=2e-2)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: type(family).__name__)
def test_step_is_the_inverse_of_retract(family):
    a, b = (family.sample(jax.random.key(seed)) for seed in (1, 2))
    step = family.step(a, b)
    assert step.shape == (family.dof,)
    if family.dof:
        np.testing.assert_allclose(family.project(family.retract(a, step)), b, atol=1e-5)
        low, high = family.reach(a, step)
        assert np.all((low <= step) & (step <= high))


def test_measure_of_rotations_is_haar():
    side = np.linspace(-math.pi, math.pi, 41)
    steps = np.array(list(itertools.product((side[1:] + side[:-1]) / 2, repeat=3)), np.float32)
    inside = np.linalg.norm(steps, axis=1) < math.pi
    density = np.exp(jax.vmap(Rotations().log_measure)(steps)) * inside
    np.testing.assert_allclose(density.sum() * (side[1] - side[0]) ** 3, Rotations.volume, rtol=0.01)


def test_repeated_modes_are_told():
    family = avae.Rotation()
    alpha = jnp.array([[3.1], [-3.1], [0.0], [0.005]])
    distinct = distinct_modes(alpha, jnp.full((4, 1, 1), 0.1**2), family)
    np.testing.assert_array_equal(distinct, [True, False, True, False])


def test_kept_starts_lie_apart():
    family = avae.Rotation()
    starts = family.starts(32)
    turned = jax.vmap(family.project)(starts - 3.1)
    scores = jnp.minimum(jnp.abs(starts[:, 0]), 0.1 + jnp.abs(turned[:, 0]))
    kept = spaced(scores, starts, family, 2, family.cell(len(starts)))
    np.testing.assert_allclose(np.abs(np.asarray(starts)[kept, 0]), [0, math.pi], atol=0.1)


def test_without_a_finite_mode_the_proposal_is_the_prior():
    family = avae.Rotation()
    modes = Modes(jnp.zeros((2, 1)), jnp.full(2, jnp.inf), jnp.full((2, 1, 1), 0.01), jnp.array([True, True]))
    q = around_modes(modes, 0.1, family)
    np.testing.assert_array_equal(q.log_weight, [-jnp.inf, -jnp.inf, 0.0])
    poses, density = draws(q, family, 200)
    np.testing.assert_allclose(density, family.log_prior(family.identity), rtol=1e-6)
    assert np.ptp(poses) > 5  # all the way round, not at the modes


def test_an_infinite_mode_has_no_weight_beside_a_finite_one():
    modes = Modes(jnp.zeros((2, 1)), jnp.array([1.0, jnp.inf]), jnp.full((2, 1, 1), 0.01), jnp.array([True, True]))
    weights = np.exp(around_modes(modes, 0.1, avae.Rotation()).log_weight)
    np.testing.assert_allclose(weights, [0.9, 0, 0.1], rtol=1e-5)
