"""J and its terms, against NumPy in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import avae
from avae.networks.vae import Posterior
from avae.objective import gaussian_kl, terms

ALPHA = np.array([[0.4], [-1.3], [2.9]], np.float32)
objective = jax.jit(avae.objective)


def numpy_warp(x, matrix):
    """One square image [N, N, 1], pixel by pixel."""
    n = len(x)
    out = np.zeros_like(x)
    for i, j in np.ndindex(n, n):
        p = np.array([(2 * j + 1) / n - 1, (2 * i + 1) / n - 1, 1])
        column, row = ((matrix @ p + 1) * n - 1) / 2
        for r in (int(np.floor(row)), int(np.floor(row)) + 1):
            for c in (int(np.floor(column)), int(np.floor(column)) + 1):
                if 0 <= r < n and 0 <= c < n:
                    out[i, j] += (1 - abs(row - r)) * (1 - abs(column - c)) * x[r, c]
    return out


def numpy_dense(weights, h):
    for i in range(len(weights)):
        h = h @ np.asarray(weights[f"Dense_{i}"]["kernel"], float) + np.asarray(weights[f"Dense_{i}"]["bias"], float)
        if i < len(weights) - 1:
            h = h / (1 + np.exp(-h))
    return h


def numpy_terms(params, x, angle, noise=0.0):
    """Reconstruction and KL of one image, from the equation in objective.py."""
    c, s = np.cos(float(angle)), np.sin(float(angle))
    canonical = numpy_warp(x.astype(float), np.array([[c, -s, 0], [s, c, 0]]))
    mu, logvar = np.split(numpy_dense(params.weights["encoder"], canonical.ravel()), 2)
    z = mu + np.exp(logvar / 2) * noise
    decoded = 1 / (1 + np.exp(-numpy_dense(params.weights["decoder"], z)))
    mean = np.clip(numpy_warp(decoded.reshape(x.shape), np.array([[c, s, 0], [-s, c, 0]])), 1e-4, 1 - 1e-4)
    reconstruction = -np.sum(x * np.log(mean) + (1 - x) * np.log(1 - mean))
    return reconstruction, 0.5 * np.sum(mu**2 + np.exp(logvar) - logvar - 1)


def test_equals_numpy(params, images):
    found = objective(params, images, ALPHA)
    expected = np.array([numpy_terms(params, x, angle) for x, (angle,) in zip(images, ALPHA, strict=True)])
    np.testing.assert_allclose(found.reconstruction, expected[:, 0], rtol=1e-5)
    np.testing.assert_allclose(found.kl, expected[:, 1], rtol=1e-5)
    np.testing.assert_allclose(found.total, found.reconstruction + found.kl, rtol=1e-6)
    assert [term.shape for term in found] == [(3,)] * 3


def test_identity_equals_no_transform(params, images):
    plain, identity = objective(params, images), objective(params, images, np.zeros((3, 1)))
    for a, b in zip(plain, identity, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-3)
    expected = np.array([numpy_terms(params, x, 0.0) for x in images])
    np.testing.assert_allclose(plain.total, expected.sum(axis=1), rtol=1e-5)


def test_kl_equals_monte_carlo():
    mu, logvar = np.array([0.3, -1.2, 0.0]), np.array([0.5, -1.0, 0.0])
    eps = np.random.default_rng(0).normal(size=(200_000, 3))
    z = mu + np.exp(logvar / 2) * eps
    monte_carlo = np.mean(np.sum(0.5 * z**2 - 0.5 * eps**2 - 0.5 * logvar, axis=1))
    found = gaussian_kl(Posterior(jnp.asarray(mu, jnp.float32), jnp.asarray(logvar, jnp.float32)))
    np.testing.assert_allclose(found, monte_carlo, atol=0.02)
    assert gaussian_kl(Posterior(jnp.zeros(3), jnp.zeros(3))) == 0


def test_key_draws_one_z_per_image(params, images):
    same = np.repeat(images[:1], 3, axis=0)
    alpha = np.repeat(ALPHA[:1], 3, axis=0)
    drawn = objective(params, same, alpha, jax.random.key(0))
    assert len(np.unique(drawn.reconstruction)) == 3  # one draw each
    np.testing.assert_allclose(drawn.kl, objective(params, same, alpha).kl, rtol=1e-6)
    np.testing.assert_array_equal(drawn.total, objective(params, same, alpha, jax.random.key(0)).total)
    assert (drawn.total != objective(params, same, alpha, jax.random.key(1)).total).all()


def test_draws_average_to_the_expectation(params, images):
    one = lambda key: terms(params, jnp.asarray(images[0]), jnp.asarray(ALPHA[0]), key).reconstruction  # noqa: E731
    drawn = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 2000)))
    noise = np.random.default_rng(0).normal(size=(300, 3))
    expected = np.array([numpy_terms(params, images[0], ALPHA[0, 0], eps)[0] for eps in noise])
    error = np.hypot(drawn.std() / 2000**0.5, expected.std() / 300**0.5)
    assert abs(drawn.mean() - expected.mean()) < 4 * error
    np.testing.assert_allclose(drawn.std(), expected.std(), rtol=0.2)


def test_images_do_not_see_their_batch_mates(params, images):
    together = objective(params, images, ALPHA)
    alone = [objective(params, images[i : i + 1], ALPHA[i : i + 1]) for i in range(3)]
    for name in ("reconstruction", "kl", "total"):
        singles = [getattr(one, name)[0] for one in alone]
        np.testing.assert_allclose(getattr(together, name), singles, rtol=1e-5)
        assert len(np.unique(singles)) == 3


@pytest.mark.usefixtures("x64")
def test_slope_in_alpha_equals_finite_differences(params, images, finite_differences):
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
    loss = jax.jit(lambda alpha: terms(params, jnp.asarray(images[0], jnp.float64), alpha).total)
    for alpha in ALPHA.astype(float):
        expected = finite_differences(loss, alpha)
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(jax.jvp(loss, (alpha,), (np.ones(1),))[1], expected[0], rtol=1e-5)
        np.testing.assert_allclose(jax.grad(loss)(alpha), expected, rtol=1e-5)


def test_weights_have_finite_gradients(params, images):
    gradient = jax.jit(jax.grad(lambda params: objective(params, images, ALPHA, jax.random.key(0)).total.sum()))(params)
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf).all()
        assert np.abs(leaf).max() > 0


def test_not_jitted_is_the_same(params, images):
    np.testing.assert_allclose(
        avae.objective(params, images, ALPHA).total, objective(params, images, ALPHA).total, rtol=1e-5
    )


@pytest.mark.parametrize("shape", [(3,), (1, 1), (3, 3), (1,), (), (4, 1)])
def test_wrong_alpha(params, images, shape):
    with pytest.raises(ValueError, match=r"alpha: expected one pose per image, shape \(3, 1\), got"):
        avae.objective(params, images, np.zeros(shape))


def test_wrong_images(params, images):
    with pytest.raises(ValueError, match=r"x: expected .*values in \[0, 1\].*got \[0, 255\]"):
        avae.objective(params, np.linspace(0, 255, 144, dtype=np.float32).reshape(1, 12, 12, 1))
    with pytest.raises(ValueError, match=r"for one example pass x\[None\]"):
        avae.objective(params, images[0])


@pytest.mark.parametrize(
    ("family", "alpha", "message"),
    [
        (avae.Rigid(), [[9.0, 0, 0], [0, 0.3, 0], [0, 0, -0.3]], r"of Rigid\(max_shift=0.2.*\), but 2 of 3 .* first 1"),
        (avae.Rotation(), [[0.0], [0.0], [np.nan]], "1 of 3 are outside, first 2"),
        (avae.QuarterTurns(), [[0.5], [1.0], [4.0]], r"2 of 3 are outside, first 0: \[0.5\]"),
    ],
)
def test_poses_outside_the_family(params, images, family, alpha, message):
    params = params.replace(model=dataclasses.replace(params.model, transform=family))
    alpha = np.array(alpha, np.float32)
    with pytest.raises(ValueError, match=message):
        avae.objective(params, images, alpha)
    assert objective(params, images, alpha).total.shape == (3,)  # under a trace there are no values to look at


def test_poses_at_hand_are_checked_inside_jit_too(params, images):
    inside = np.full((3, 1), 0.5, np.float32)
    found = jax.jit(lambda x: avae.objective(params, x, inside).total)(images)
    np.testing.assert_allclose(found, avae.objective(params, images, inside).total, rtol=1e-5)
    narrow = params.replace(model=dataclasses.replace(params.model, transform=avae.Rotation(max_angle=0.1)))
    with pytest.raises(avae.Mistake, match=r"alpha: expected poses in the range of .* first 0: "):
        jax.jit(lambda x: avae.objective(narrow, x, inside).total)(images)
