"""Poses remembered between full searches: kept by image, never a trap, saved with the state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_train import tiny

import avae
from avae.config import experiment
from avae.data import dataset as data
from avae.training import checkpoint, step as training


@pytest.fixture(scope="module")
def remembering():
    """Weights that stay where they are; epochs of two steps, and every third epoch searches in full."""
    exp = experiment(tiny(**{"train.search_every": 3, "train.learning_rate": 1e-12, "data.n_train": 64}))
    images = data.load(exp.data).train.images[:32]
    index = np.arange(32)[::-1].copy()
    return exp, images, index, training.train_step(training.init_state(exp), images, exp, 1, index)[0].poses


def test_poses_of_the_batch_are_remembered(remembering):
    exp, images, index, poses = remembering
    key = jax.random.split(jax.random.fold_in(jax.random.key(exp.train.seed), 0), 5)[2]
    found = avae.align(training.init_state(exp).params, images, key=key, search=exp.train.search)
    np.testing.assert_allclose(poses[index], found.alpha, atol=1e-5)
    np.testing.assert_array_equal(poses[32:], 0)


def test_a_bad_memory_does_not_trap_an_image(remembering):
    """All poses are set wrong by a third of a turn; the fresh starts of a few cheap steps find nearly all again."""
    exp, images, index, poses = remembering
    state = training.init_state(exp)
    terms = jax.jit(avae.objective)
    good = terms(state.params, images, poses[index]).total
    bad = exp.model.transform.project(poses + 2.0)
    state, worst = state.replace(poses=bad, step=jnp.asarray(2)), terms(state.params, images, bad[index]).total
    for _ in range(4):  # steps 2 to 5 are the two epochs from memory
        state, _ = training.train_step(state, images, exp, 1, index)
    last = terms(state.params, images, state.poses[index]).total
    assert float((worst - good).mean()) > 0
    assert float((last - good).mean()) < 0.25 * float((worst - good).mean())


@pytest.mark.parametrize("step", [0, 2])
def test_the_gain_is_over_the_identity_in_both_kinds_of_epoch(remembering, step):
    """A full search at step 0, one from memory at step 2: what was remembered has no part in it."""
    exp, images, index, poses = remembering
    state = training.init_state(exp).replace(poses=jnp.copy(poses), step=jnp.asarray(step, jnp.int32))
    identity = jax.jit(avae.objective)(state.params, images, np.zeros((32, 1), np.float32)).total
    state, metrics = training.train_step(state, images, exp, 1, index)
    found = jax.jit(avae.objective)(training.init_state(exp).params, images, state.poses[index]).total
    np.testing.assert_allclose(metrics["search_gain"], jnp.mean(identity - found), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(("batch_size", "n_train"), [(32, 64), (128, 60_000), (100, 33_000_001), (7, 10)])
def test_epochs_are_counted_beyond_what_an_integer_holds(batch_size, n_train):
    steps = [0, 1, n_train // batch_size, 2**24 + 12_345, 2**31 - 1]
    found = [int(training.epoch(jnp.asarray(step, jnp.int32), batch_size, n_train)) for step in steps]
    assert found == [step * batch_size // n_train for step in steps]


def test_poses_are_saved_with_the_state(remembering, tmp_path):
    exp = remembering[0]
    state = training.init_state(exp).replace(poses=jnp.full((64, 1), 0.5), step=jnp.asarray(7, jnp.int32))
    with checkpoint.Checkpoints(tmp_path, 2) as checkpoints:
        checkpoints.save(state, 1.0)
        checkpoints.wait()
        restored = checkpoints.restore(training.init_state(exp))
    np.testing.assert_array_equal(restored.poses, 0.5)


@pytest.mark.parametrize("changes", [{"data.pose": "fresh"}, {"train.search.enabled": False}])
def test_poses_that_cannot_be_remembered(changes):
    with pytest.raises(ValueError, match=r"train.search_every: expected 1, got 2: .* no pose to remember"):
        experiment(tiny(**{"train.search_every": 2}, **changes))
