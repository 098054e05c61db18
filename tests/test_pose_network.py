"""The pose network: its bins, what it learns from a search, and what the search makes of its proposals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import avae
from avae import run
from avae.config import default, experiment
from avae.inference.importance import Problem
from avae.settings import plan
from avae.training.distill import proposal_loss
from avae.training.step import init_state, train_step
from avae.transforms import FAMILIES

SMALL = avae.PoseNetwork(n_bins=8, hidden=(32,))
SEARCH = avae.Search(n_starts=16, top_k=2, n_local=(), n_steps=2)


def with_network(params, network=SMALL, transform=None):
    model = dataclasses.replace(params.model, transform=transform or params.model.transform, pose_network=network)
    weights = network.init(jax.random.key(0), model.image_shape, model.transform)
    return avae.Params(params.weights | {"pose_network": weights}, model)


@pytest.fixture(scope="module")
def distilled(params, images):
    return avae.distill(params, images, pose_network=SMALL, steps=400, learning_rate=1e-2, search=SEARCH)


@pytest.mark.parametrize("name", ["quarter_turns", "rigid", "rotation3d"])  # a finite set, a circle and a box, SO(3)
def test_proposals_are_poses_of_the_family(name):
    family = FAMILIES[name]()
    shape = (8,) * family.dim + (1,)
    model = avae.Model(avae.MLP(image_shape=shape, hidden=(4,)), transform=family, pose_network=SMALL)
    params = avae.init(jax.random.key(0), model)
    poses = jax.jit(lambda w, x: SMALL.propose(w, x, 3, family))(params.weights["pose_network"], jnp.ones(shape))
    assert poses.shape == (min(3, len(family.starts(8))), family.size)
    assert np.isfinite(jax.vmap(family.log_prior)(poses)).all()
    assert len({tuple(pose) for pose in np.asarray(poses).tolist()}) == len(poses)


def test_the_loss_is_that_of_the_nearest_bin_also_across_the_seam():
    family, x = avae.Rotation(), jnp.ones((4, 4, 1))
    weights = SMALL.init(jax.random.key(0), x.shape, family)
    logits, steps = SMALL(weights, x, family)
    bins = np.asarray(family.starts(8))[:, 0]
    for angle in (3.1, -3.1, 0.2, 1.0):
        gap = (angle - bins + np.pi) % (2 * np.pi) - np.pi
        nearest = np.abs(gap).argmin()
        expected = -jax.nn.log_softmax(logits)[nearest] + (steps[nearest, 0] - gap[nearest] / (np.pi / 8)) ** 2
        np.testing.assert_allclose(SMALL.loss(weights, x, jnp.array([angle]), family), expected, rtol=1e-4)


def test_it_learns_where_the_search_ends(distilled, images):
    """Each image's canonical form, put at angles that it was never seen at: the likeliest proposal is close."""
    family, model = distilled.model.transform, distilled.model
    canonical = avae.align(distilled, images, search=SEARCH).canonical
    angles = np.linspace(-3, 3, 20, dtype=np.float32)[:, None]
    turned = jax.vmap(lambda c: jax.vmap(lambda a: model.from_canonical(c, family, a, (12, 12)))(angles))(canonical)
    weights = distilled.weights["pose_network"]
    guess = jax.jit(jax.vmap(jax.vmap(lambda x: SMALL.propose(weights, x, 1, family)[0])))(turned)
    error = jax.vmap(lambda g: jax.vmap(family.distance)(g, angles))(guess)
    assert np.median(error) < np.radians(10)
    assert (np.asarray(error) < np.radians(45)).mean() > 0.9


def test_the_search_corrects_what_it_proposes(distilled, images):
    fast = plan(distilled.model, "fast")
    assert (fast.proposed, fast.search.n_starts) == (True, 5)
    found = avae.align(distilled, images, search="fast")
    assert found.info.start_losses.shape == (3, 5)
    identity = avae.objective(distilled, images, np.zeros((3, 1), np.float32)).total
    np.testing.assert_allclose(found.info.identity_loss, identity, rtol=1e-5)
    assert (found.loss <= found.info.start_losses.min(axis=1) + 1e-4).all()
    dense = avae.align(distilled, images, search=avae.Search(n_starts=90, top_k=1, n_local=(), n_refined=1, n_steps=2))
    assert (found.loss - dense.loss).mean() < 0.2 * (identity - dense.loss).mean()


def test_bounds_take_proposals_too(distilled, images):
    """Modes for a bound are refined from the proposals, and none is worse than the best of them."""
    fast = plan(distilled.model, "fast")
    problem = Problem(distilled, jnp.asarray(images[0]), distilled.model.transform, fast, 2, 2)
    modes = jax.jit(lambda: problem.modes(2))()
    found = avae.align(distilled, images[:1], search="fast")
    assert modes.alpha.shape == (2, 1)
    assert modes.loss[0] <= found.info.start_losses.min() + 1e-4


def test_distilling_leaves_the_vae_alone(distilled, params):
    jax.tree.map(np.testing.assert_array_equal, {k: distilled.weights[k] for k in params.weights}, params.weights)


@pytest.mark.slow
def test_training_with_one_gives_the_same_vae():
    """Its loss has no part in the VAE's gradient."""
    config = default()
    config.update_from_flattened_dict(
        {"data.n_train": 64, "data.n_test": 4, "train.batch_size": 16, "model.hidden": (8,), "model.latent": 2}
        | {"train.search.n_starts": 4, "train.search.n_steps": 1, "train.clip_norm": 1e9, "train.epochs": 2}
    )
    x = np.random.default_rng(0).uniform(size=(16, 28, 28, 1)).astype(np.float32)
    states = []
    for enabled in (False, True):
        config.pose_network.enabled = enabled
        described = experiment(config)
        state = init_state(described)
        before = jax.tree.map(np.asarray, state.params.weights.get("pose_network"))  # the step takes over its buffers
        for _ in range(2):
            state, _ = train_step(state, x, described)
        states.append(state)
    plain, both = (dict(state.params.weights) for state in states)
    after = both.pop("pose_network")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), plain, both)
    changed = jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), before, after))
    assert all(changed)


@pytest.mark.slow
def test_a_run_keeps_it(tmp_path):
    config = default()
    config.update_from_flattened_dict(
        {"data.n_train": 32, "data.n_test": 4, "train.batch_size": 16, "model.hidden": (8,), "model.latent": 2}
        | {"train.search.n_starts": 4, "train.search.n_steps": 0, "train.epochs": 1, "pose_network.enabled": True}
    )
    params = run.fit_config(config, tmp_path)
    loaded = avae.load(tmp_path)
    assert loaded.model.pose_network == avae.PoseNetwork()
    jax.tree.map(np.testing.assert_array_equal, loaded.weights, params.weights)
    assert not run.plain_vae(config).pose_network.enabled
    config.train.search.enabled = False
    with pytest.raises(ValueError, match=r"pose_network\.enabled: expected False where train\.search"):
        experiment(config)


def test_its_loss_falls_on_what_it_was_taught(distilled, params, images):
    fresh = proposal_loss(with_network(params), jnp.asarray(images), jax.random.key(1))
    canonical = avae.align(distilled, images, search=SEARCH).canonical
    assert proposal_loss(distilled, canonical, jax.random.key(1)) < 0.5 * fresh


def test_what_cannot_be(params, images):
    with pytest.raises(ValueError, match="expected networks with an `image_shape`, with sides divisible by"):
        with_network(params, avae.PoseNetwork(coarse=5))
    with pytest.raises(ValueError, match="n_bins >= 2"):
        avae.PoseNetwork(n_bins=1)
    with pytest.raises(ValueError, match="steps >= 1"):
        avae.distill(params, images, steps=0)
