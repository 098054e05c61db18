"""The VAE by itself: encode, decode, sample."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import avae

NETWORK = avae.MLP(image_shape=(12, 12, 1), latent=3, hidden=(16,))


@pytest.fixture(scope="module")
def params():
    return avae.init(jax.random.key(0), avae.Model(networks=NETWORK))


def test_encode_and_decode_are_the_networks_one_example_at_a_time(params):
    x = jax.random.uniform(jax.random.key(1), (4, 12, 12, 1))
    posterior = avae.encode(params, x)
    means = avae.decode(params, posterior.mu)
    for i in range(4):
        mu, logvar = NETWORK.encode(params.weights, x[i])
        np.testing.assert_allclose(posterior.mu[i], mu, atol=1e-6)
        np.testing.assert_allclose(posterior.logvar[i], logvar, atol=1e-6)
        np.testing.assert_allclose(means[i], jax.nn.sigmoid(NETWORK.decode(params.weights, mu)), atol=1e-6)


def test_encoding_the_canonical_form_gives_the_latent_that_align_found(params):
    x = jax.random.uniform(jax.random.key(1), (2, 12, 12, 1))
    found = avae.align(params, x, search=avae.Search(n_starts=4, top_k=1, n_steps=0))
    np.testing.assert_allclose(avae.encode(params, found.canonical).mu, found.latent, atol=1e-5)


def test_samples_are_means_at_random_poses(params):
    canonical, posed = (avae.sample(params, 5, posed=posed) for posed in (False, True))
    assert canonical.shape == posed.shape == (5, 12, 12, 1)
    assert (np.asarray(posed) >= 0).all()
    assert (np.asarray(posed) <= 1).all()
    assert np.abs(posed - canonical).max() > 0.05  # turned, and cut at the corners
    np.testing.assert_array_equal(posed, avae.sample(params, 5))
    assert (np.asarray(avae.sample(params, 5, key=jax.random.key(7))) != np.asarray(posed)).any()


def test_mistakes_are_sentences(params):
    with pytest.raises(ValueError, match=r"z: expected latents \[B, 3\], got shape \(2, 4\)"):
        avae.decode(params, jnp.zeros((2, 4)))
    with pytest.raises(ValueError, match="n >= 1"):
        avae.sample(params, 0)
    with pytest.raises(ValueError, match="one typed key"):
        avae.sample(params, 1, key=0)
    with pytest.raises(ValueError, match=r"x: expected \[B, 12, 12, 1\], got shape"):
        avae.encode(params, np.zeros((1, 12, 13, 1), np.float32))
