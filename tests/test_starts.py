"""Which poses a search tries: the lattice, scoring at a low resolution, rounds of subdivision."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_frame import Shapeless

import avae
from avae.networks.vae import block_means
from avae.objective import pose_loss, predict, score

COARSE = avae.Search(n_starts=16, top_k=3, n_local=0, n_steps=3, coarse=2)
BOWL = avae.CompositeLoss(  # lowest at alpha = x
    predict=lambda x, alpha: alpha[0] - x, score=lambda x, u: u**2, curvature=lambda x, u: jnp.full_like(u, 2.0)
)
warp = jax.jit(avae.warp)


# --- lattice --------------------------------------------------------------------------------------------------------


def volume(side=8):
    """Three spots of different sizes and weights [side, side, side, 1], with no rotation onto itself."""
    grid = np.stack(np.meshgrid(*(np.arange(side) - (side - 1) / 2,) * 3, indexing="ij"))
    spots = [((0.5, -1.5, 0.3), 1.0, 1.0), ((1.2, 1.4, -0.8), 0.8, 0.9), ((-1.6, 0.4, 1.0), 1.2, 0.5)]
    total = sum(
        weight * np.exp(-np.sum((grid - np.reshape(at, (3, 1, 1, 1))) ** 2, axis=0) / (2 * width**2))
        for at, width, weight in spots
    )
    return np.asarray(total, np.float32)[..., None]


def template_loss(template, transform):
    return avae.CompositeLoss(
        predict=lambda x, alpha: avae.warp(template, transform.matrix(alpha)),
        score=lambda x, u: jnp.sum((x - u) ** 2),
        curvature=lambda x, u: jnp.full_like(u, 2.0),
    )


def test_the_lattice_finds_a_rotation_between_its_elements():
    family = avae.Rotation3D()
    axes = np.array([[1.0, 0.2, -0.4], [-0.3, 1.0, 0.8], [0.6, -0.7, 0.5]])
    half = np.array([[0.4], [1.2], [0.9]])  # turns by 46, 138 and 103 degrees
    truth = np.concatenate([np.cos(half), np.sin(half) * axes / np.linalg.norm(axes, axis=1, keepdims=True)], axis=1)
    truth = truth.astype(np.float32)
    x = warp(np.stack([volume()] * 3), jax.vmap(family.matrix)(truth))
    settings = avae.Search(starts="lattice", n_starts=4, top_k=4, n_local=0, n_steps=10)
    found = avae.search(template_loss(volume(), family), x, family, settings=settings)
    assert found.info.start_losses.shape == (3, 24)  # all of them, whatever n_starts says
    assert np.degrees(jax.vmap(family.distance)(found.alpha, truth)).max() < 3
    nearest = jax.vmap(lambda pose: jax.vmap(lambda start: family.distance(pose, start))(family.lattice).min())(truth)
    assert np.degrees(nearest).min() > 10  # refinement had something to do


@pytest.mark.parametrize(("family", "count"), [(avae.Rotation(), 4), (avae.QuarterTurns(), 4), (avae.Translation(), 1)])
def test_without_refinement_the_lattice_gives_its_elements(family, count):
    x = np.linspace(-3, 3, 7, dtype=np.float32)
    settings = avae.Search(starts="lattice", top_k=3, n_local=0, n_steps=0)
    found = avae.search(BOWL, x, family, settings=settings)
    lattice = np.asarray(family.lattice)
    assert found.info.start_losses.shape == (7, count)
    assert found.info.kept.shape == (7, min(3, count))
    best = np.abs(lattice[None, :, 0] - x[:, None]).argmin(axis=1)
    np.testing.assert_array_equal(found.alpha, lattice[best])
    assert len(set(best)) == count


# --- coarse ---------------------------------------------------------------------------------------------------------


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
    return avae.align(params, images, search=COARSE)


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


@pytest.mark.parametrize("top_k", [1, 3])
def test_a_low_resolution_that_misleads_does_not_beat_the_identity(top_k):
    """The reduced example lies at the other side of the circle."""
    misleading = dataclasses.replace(BOWL, reduce=lambda x, factor: jnp.where(jnp.abs(x) > 2, 0.0, 3.0) + 0 * x)
    x = np.array([0.02, -0.1, 2.9], np.float32)
    settings = avae.Search(n_starts=32, top_k=top_k, n_local=0, n_steps=0, coarse=2)
    found = avae.search(misleading, x, avae.Rotation(), settings=settings)
    assert found.info.start_losses[0].argmin() == 15  # near 3 radians
    np.testing.assert_array_equal(found.alpha[:2], 0)
    np.testing.assert_allclose(found.info.identity_loss, x**2, rtol=1e-5)
    assert (found.loss <= found.info.identity_loss).all()
    assert found.info.kept.shape == (3, top_k)
    np.testing.assert_array_equal(found.info.kept[:2, 0], 0)  # best first, by the full loss


@pytest.mark.parametrize("top_k", [1, 2])
def test_a_low_resolution_that_tells_the_truth_is_followed(top_k):
    truthful = dataclasses.replace(BOWL, reduce=lambda x, factor: x)
    x = np.array([0.0, 1.1, -2.5], np.float32)
    settings = avae.Search(n_starts=32, top_k=top_k, n_local=0, n_steps=0)
    plain = avae.search(truthful, x, avae.Rotation(), settings=settings)
    found = avae.search(truthful, x, avae.Rotation(), settings=dataclasses.replace(settings, coarse=2))
    np.testing.assert_array_equal(found.alpha, plain.alpha)
    assert (found.info.kept == plain.info.kept)[:, 0].all()
    assert all(len(set(kept)) == top_k for kept in np.asarray(found.info.kept).tolist())  # none twice


def test_volumes_can_be_scored_at_a_low_resolution():
    network = avae.MLP(image_shape=(4, 4, 6, 1), hidden=(4,), latent=2)
    family = avae.CubeRotations()
    params = avae.init(jax.random.key(0), avae.Model(network, transform=family))
    x = np.random.default_rng(0).uniform(size=(2, 4, 4, 6, 1)).astype(np.float32)
    loss = pose_loss(params, family)
    found = avae.search(loss, x, family, settings=avae.Search(top_k=1, n_local=0, n_steps=0, coarse=2))
    np.testing.assert_allclose(found.loss, jax.jit(jax.vmap(loss))(x, found.alpha), rtol=1e-5)
    assert found.info.start_losses.shape == (2, 24)


@pytest.mark.parametrize("coarse", [5, 24])
def test_coarse_divides_the_sides(params, images, coarse):
    message = rf"search.coarse: expected a divisor of the images' sides \(12, 12\), got {coarse}"
    with pytest.raises(ValueError, match=message):
        avae.align(params, images, search=dataclasses.replace(COARSE, coarse=coarse))


def test_coarse_needs_networks_that_know_their_images(images):
    with pytest.raises(ValueError, match=r"search.coarse: .* networks without `image_shape` do not tell, got 2"):
        avae.align(avae.Params({}, Shapeless()), images, search=COARSE)


@pytest.mark.parametrize("loss", [BOWL, lambda x, alpha: BOWL(x, alpha)])
def test_coarse_needs_a_loss_with_reduce(loss):
    with pytest.raises(ValueError, match=r"coarse > 1 expects loss_fn to be an avae.CompositeLoss with `reduce`"):
        avae.search(loss, np.zeros(2), avae.Rotation(), settings=dataclasses.replace(COARSE, solver="adam"))


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
            settings=avae.Search(n_starts=16, top_k=2, n_local=5, n_rounds=rounds, n_steps=0, solver="adam"),
        ).loss
        for rounds in (0, 1, 2)
    ]
    assert (losses[1] <= losses[0]).all()
    assert (losses[2] <= losses[1]).all()
    assert (losses[1] < losses[0]).mean() > 0.1
    assert (losses[2] < losses[1]).mean() > 0.1
