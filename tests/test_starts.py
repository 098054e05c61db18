"""Which poses a search tries: scoring by a smaller twin, rounds of subdivision."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_frame import Shapeless

import avae
from avae.align import search_one
from avae.networks.vae import block_means
from avae.objective import pose_loss, predict, score

TWIN = avae.Search(n_starts=16, twin=2, top_k=3, n_local=(), n_steps=3)
BOWL = avae.CompositeLoss(  # lowest at alpha = x
    predict=lambda x, alpha: alpha[0] - x, score=lambda x, u: u**2, curvature=lambda x, u: jnp.full_like(u, 2.0)
)

# --- twin -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 6, 2), (2, 4, 6, 1)])
def test_reduce_means_over_blocks(shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    reduced = np.asarray(block_means(jnp.asarray(x), 2))
    assert reduced.shape == (*(side // 2 for side in shape[:-1]), shape[-1])
    for index in np.ndindex(*reduced.shape[:-1]):
        block = x[tuple(slice(2 * i, 2 * i + 2) for i in index)]
        np.testing.assert_allclose(reduced[index], block.reshape(-1, shape[-1]).mean(axis=0), atol=1e-6)
    np.testing.assert_array_equal(block_means(jnp.asarray(x), 1), x)


@pytest.fixture(scope="module")
def coarse(params, images):
    return avae.align(params, images, search=TWIN)


def test_starts_are_scored_on_reduced_images(coarse, params, images):
    family, model = params.model.transform, params.model
    starts = family.starts(16)

    def by_hand(x, alpha):  # a pixel of the reduced image counts for four
        small, reduced = block_means(x, 2), params.reduced(2)
        prediction = predict(reduced, small, family, alpha)
        pixels = model.likelihood.log_prob(params.weights, small, prediction.mean)
        return score(reduced, small, prediction).kl - 4 * pixels

    losses = jax.jit(jax.vmap(lambda x: jax.vmap(lambda alpha: by_hand(x, alpha))(starts)))(images)
    np.testing.assert_allclose(coarse.info.start_losses, losses, rtol=1e-4)
    full = jax.jit(jax.vmap(lambda x: jax.vmap(lambda alpha: pose_loss(params, family)(x, alpha))(starts)))(images)
    difference = np.abs(np.asarray(coarse.info.start_losses - full))
    assert (difference > 1e-2).mean() > 0.9
    assert difference.mean() < 0.1 * np.asarray(full).mean()


def test_the_loss_found_is_that_at_full_resolution(coarse, params, images):
    at_found = jax.jit(avae.objective)(params, images, coarse.alpha).total
    np.testing.assert_allclose(coarse.loss, at_found, rtol=1e-5)
    identity = jax.jit(avae.objective)(params, images, np.zeros((3, 1), np.float32)).total
    np.testing.assert_allclose(coarse.info.identity_loss, identity, rtol=1e-5)
    assert (coarse.loss < identity).any()
    assert (coarse.loss <= identity + 1e-4).all()
    assert (coarse.info.identity_loss != coarse.info.start_losses[:, 0]).all()


def found_by(twin, x, top_k, rescored=True):
    """The search of `BOWL` for each x, its starts scored by `twin`."""
    family, search = avae.Rotation(), avae.Search(n_starts=32, top_k=top_k, n_local=(), n_steps=0)
    starts = family.starts(32)
    of_one = lambda x: search_one(BOWL, x, starts, family, search, (BOWL, twin(x)) if rescored else None)  # noqa: E731
    return jax.jit(jax.vmap(of_one))(x)


@pytest.mark.parametrize("top_k", [1, 3])
def test_a_twin_that_misleads_does_not_beat_the_identity(top_k):
    """The twin sees the example at the other side of the circle."""
    x = np.array([0.02, -0.1, 2.9], np.float32)
    found = found_by(lambda x: jnp.where(jnp.abs(x) > 2, 0.0, 3.0) + 0 * x, x, top_k)
    assert found.info.start_losses[0].argmin() == 15  # near 3 radians
    np.testing.assert_array_equal(found.alpha[:2], 0)
    np.testing.assert_allclose(found.info.identity_loss, x**2, rtol=1e-5)
    assert (found.loss <= found.info.identity_loss).all()
    assert found.info.kept.shape == (3, top_k)
    np.testing.assert_array_equal(found.info.kept[:2, 0], 0)  # best first, by the full loss


@pytest.mark.parametrize("top_k", [1, 2])
def test_a_twin_that_tells_the_truth_is_followed(top_k):
    x = np.array([0.0, 1.1, -2.5], np.float32)
    plain, found = (found_by(lambda x: x, x, top_k, rescored) for rescored in (False, True))
    np.testing.assert_array_equal(found.alpha, plain.alpha)
    assert (found.info.kept == plain.info.kept)[:, 0].all()
    assert all(len(set(kept)) == top_k for kept in np.asarray(found.info.kept).tolist())  # none twice


def test_volumes_can_be_scored_by_a_twin():
    network = avae.MLP(image_shape=(4, 4, 6, 1), hidden=(4,), latent=2)
    family = avae.CubeRotations()
    params = avae.init(jax.random.key(0), avae.Model(network, transform=family))
    x = np.random.default_rng(0).uniform(size=(2, 4, 4, 6, 1)).astype(np.float32)
    found = avae.align(params, x, search={"twin": 2})
    np.testing.assert_allclose(found.loss, jax.jit(jax.vmap(pose_loss(params, family)))(x, found.alpha), rtol=1e-5)
    assert found.info.start_losses.shape == (2, 24)


@pytest.mark.parametrize("twin", [5, 24])
def test_the_twin_divides_the_sides(params, images, twin):
    message = rf"search.twin: expected 1, or a divisor of the sides of images \(12, 12, 1\).*got {twin} for MLP"
    with pytest.raises(avae.Mistake, match=message):
        avae.align(params, images, search=dataclasses.replace(TWIN, twin=twin))


def test_a_twin_needs_networks_that_have_one(images):
    with pytest.raises(avae.Mistake, match=r"search.twin: .* smaller twin \(`reduced`\), got 2 for Shapeless"):
        avae.align(avae.Params({}, Shapeless()), images, search=TWIN)
    with pytest.raises(avae.Mistake, match=r"search\.twin: expected 1, for a loss has no smaller twin, got 2"):
        avae.search(BOWL, np.zeros(2), avae.Rotation(), settings=TWIN)


# --- rounds ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [avae.Rotation(), avae.Rigid()])
def test_more_rounds_are_never_worse(family):
    loss = lambda x, alpha: jnp.sum((alpha - x) ** 2) + 0.05 * jnp.sin(40 * alpha[0])  # noqa: E731
    ranges = np.array([[3.0, 0.2, 0.2]])[:, : family.size]
    x = (ranges * np.random.default_rng(0).uniform(-1, 1, (24, family.size))).astype(np.float32)
    losses = [
        avae.search(
            loss,
            x,
            family,
            settings=avae.Search(n_starts=16, top_k=2, n_local=(5,) * rounds, n_steps=0, solver=avae.Adam()),
        ).loss
        for rounds in (0, 1, 2)
    ]
    assert (losses[1] <= losses[0]).all()
    assert (losses[2] <= losses[1]).all()
    assert (losses[1] < losses[0]).mean() > 0.1
    assert (losses[2] < losses[1]).mean() > 0.1
