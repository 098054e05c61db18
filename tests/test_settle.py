"""Poses that settle: losses with a ripple, whose minimum without it is known."""

import jax.numpy as jnp
import numpy as np
import pytest
from template import SIDE, picture, template

import avae
from avae import settings
from avae.config import default, experiment
from avae.settle import RISE, settle

FAMILY = avae.Rigid(max_shift=0.5)
X = jnp.zeros((48, 48, 1))
PIXEL = 2 / 48
ROOT = jnp.array([[1.0, 0.3, 0.0], [0.0, 1.0, -0.2], [0.0, 0.0, 1.0]])  # of the curvature, in standard deviations
SPREAD = jnp.array([0.5, 0.3, 0.3]) * PIXEL
TRUE = jnp.array([0.4, 0.05, -0.1])


def bowl(x, alpha, ripple=0.0, sharper=1.0):
    step = ROOT @ ((alpha - TRUE) / SPREAD) * sharper
    return 0.5 * jnp.sum(step**2) + ripple * jnp.sum(jnp.sin(alpha / (0.17 * PIXEL)))


def settled(loss, alpha, n=60):
    return settle(loss, X, alpha, loss(X, alpha), FAMILY, n)


def test_a_bowl_is_found_exactly_with_its_width():
    alpha, value, covariance = settled(bowl, TRUE + 0.4 * PIXEL)
    np.testing.assert_allclose(alpha, TRUE, atol=1e-3 * PIXEL)
    np.testing.assert_allclose(value, 0, atol=1e-3)
    root = ROOT / SPREAD[None]
    np.testing.assert_allclose(covariance, np.linalg.inv(root.T @ root), rtol=0.01)


def test_a_ripple_moves_the_lowest_pose_but_not_the_one_that_settles():
    loss = lambda x, alpha: bowl(x, alpha, ripple=1.0)  # noqa: E731
    offsets = np.linspace(-1, 1, 41) * PIXEL
    tried = jnp.stack([TRUE.at[0].add(offset) for offset in offsets])
    lowest = tried[np.argmin([float(loss(X, alpha)) for alpha in tried])]
    alpha, _, _ = settled(loss, lowest)
    assert jnp.abs(alpha - TRUE).max() < 0.5 * jnp.abs(lowest - TRUE).max()


@pytest.mark.parametrize(
    "loss",
    [
        lambda x, alpha: bowl(x, alpha, sharper=30.0),  # too few of the poses around it count
        lambda x, alpha: 0.0 * jnp.sum(alpha),  # no minimum
        lambda x, alpha: 30 * alpha[0],  # it is elsewhere
        lambda x, alpha: jnp.where(jnp.abs(alpha - TRUE).max() < 0.01 * PIXEL, -2 * RISE, bowl(x, alpha + 0.01)),
        lambda x, alpha: jnp.where(alpha[0] == TRUE[0], 0.0, jnp.nan),
    ],
    ids=["sharp", "flat", "slope", "lower by more than a ripple", "not finite"],
)
def test_a_pose_stays_where_there_is_nothing_to_fit(loss):
    alpha, value, covariance = settled(loss, TRUE)
    np.testing.assert_array_equal(alpha, TRUE)
    assert value == loss(X, TRUE)
    assert np.isinf(covariance).all()


def test_images_with_noise_settle_and_others_do_not():
    noisy, binary = (template(picture(), likelihood).model for likelihood in (avae.Gaussian(), avae.Bernoulli()))
    assert settings.of_family(avae.Rotation()).n_settle == 0
    free = [settings.plan(avae.Model(model.networks, likelihood=model.likelihood)) for model in (noisy, binary)]
    assert [plan.search.n_settle for plan in free] == [settings.SETTLE, 0]


def test_too_few_poses_are_a_mistake():
    with pytest.raises(avae.Mistake, match="n_settle: expected 0 or at least 6 poses for 1 directions, got 5"):
        avae.align(template(picture()), np.zeros((1, SIDE, SIDE, 1), np.float32), search={"n_settle": 5})


def test_under_noise_the_pose_that_settles_is_nearer():
    rng = np.random.default_rng(0)
    x = (picture()[None, ..., None] + rng.normal(0, 0.5, (40, SIDE, SIDE, 1))).astype(np.float32)
    params = template(picture(), avae.Gaussian(0.5), transform=avae.Rotation())
    kept, moved = (avae.align(params, x, search={"n_settle": n}) for n in (0, 24))
    assert np.median(np.abs(moved.alpha)) <= 1.02 * np.median(np.abs(kept.alpha))
    assert (moved.loss >= kept.loss - 1e-3).all()
    assert (moved.loss - kept.loss < RISE).all()
    assert np.isfinite(moved.std).all()


def test_runs_settle_where_models_do():
    """A config gives what a model of its own has, or what it says; training never settles."""
    config = default()
    assert experiment(config).model.search.n_settle == 0
    config.likelihood.name = "gaussian"
    described = experiment(config)
    assert described.model.search.n_settle == settings.SETTLE
    assert described.train.search.n_settle == 0
    config.search.n_settle = 0
    assert experiment(config).model.search.n_settle == 0
