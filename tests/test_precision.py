"""Networks that compute in bfloat16 inside the search: poses nearly as good, and losses as in float32."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import avae
from avae import config
from avae.align import search_batch
from avae.networks.precision import Cast, in_precision
from avae.objective import pose_loss
from avae.solvers import linearise

PLAIN = avae.Search(n_starts=16, top_k=2, n_local=2, n_steps=3)
LOW = dataclasses.replace(PLAIN, precision="bfloat16")
TOLERANCE = 0.01  # of the loss: bfloat16 has 8 bits, and J sums over pixels


@pytest.fixture(scope="module")
def found(params, images):
    return {search.precision: avae.align(params, images, search=search) for search in (PLAIN, LOW)}


def test_the_pose_is_nearly_as_good(found):
    plain, low = found["float32"], found["bfloat16"]
    assert (jnp.abs(low.loss - plain.loss) < TOLERANCE * plain.loss).all()
    assert not np.array_equal(low.info.start_losses, plain.info.start_losses)  # these are the networks' in bfloat16
    np.testing.assert_allclose(low.info.start_losses, plain.info.start_losses, rtol=2 * TOLERANCE)


def test_the_loss_is_that_of_float32(params, images, found):
    low = found["bfloat16"]
    exact = avae.objective(params, images, low.alpha).total
    np.testing.assert_allclose(low.loss, exact, rtol=1e-6)
    rounded = avae.objective(in_precision(params, "bfloat16"), images, low.alpha).total
    assert (jnp.abs(low.loss - rounded) > 1e-4).any()  # so the line above can tell
    identity = jnp.zeros_like(low.alpha)
    np.testing.assert_allclose(low.info.identity_loss, avae.objective(params, images, identity).total, rtol=1e-6)
    assert low.info.finite.all()


def test_the_deviation_is_that_of_float32(params, images, found):
    low, family = found["bfloat16"], avae.Rotation()
    curvature = jax.vmap(lambda x, alpha: linearise(pose_loss(params, family), x, alpha, family).hessian)
    np.testing.assert_allclose(low.std, 1 / jnp.sqrt(curvature(jnp.asarray(images), low.alpha)[:, 0]), rtol=1e-4)


def test_the_identity_stays_where_rounding_misleads():
    """A loss whose rounded form prefers another pose: the search falls for it, what it returns does not."""
    plain = avae.CompositeLoss(
        predict=lambda x, alpha: jnp.sin(alpha / 2), score=lambda x, u: jnp.sum(u**2), curvature=lambda x, u: 2 + 0 * u
    )
    astray = dataclasses.replace(plain, predict=lambda x, alpha: jnp.cos(alpha / 2))
    loss = dataclasses.replace(plain, cast=lambda dtype: astray)
    found = search_batch(loss, jnp.ones((2, 1)), avae.Rotation(), None, LOW)
    np.testing.assert_array_equal(found.alpha, 0.0)
    np.testing.assert_array_equal(found.loss, 0.0)
    np.testing.assert_allclose(found.info.start_losses[:, 0], 1.0)


def test_the_reduced_twin_computes_in_bfloat16(params):
    twin = in_precision(params, "bfloat16").reduced(2)
    assert twin.model.image_shape == (6, 6, 1)
    text = str(jax.make_jaxpr(lambda z: twin.model.networks.decode(twin.weights, z))(jnp.zeros(3)))
    assert all("bf16" in line for line in text.splitlines() if "dot_general" in line)
    assert not avae.Model(networks=Cast(avae.Conv(image_shape=(8, 8, 1)), "bfloat16")).reducible(2)


def test_a_wrong_precision_is_a_sentence(images):
    with pytest.raises(ValueError, match=r"precision of \('float32', 'bfloat16'\), got 'half'"):
        avae.Search(precision="half")
    loss = avae.CompositeLoss(
        predict=lambda x, alpha: alpha, score=lambda x, u: (u**2).sum(), curvature=lambda x, u: 2 + 0 * u
    )
    with pytest.raises(
        ValueError, match=r'precision "bfloat16" expects loss_fn to be an avae.CompositeLoss with `cast`'
    ):
        avae.search(loss, images, avae.Rotation(), settings=LOW)


def test_it_is_a_setting_of_a_config():
    given = config.default()
    assert config.experiment(given).model.settings().precision == "float32"
    given.search.precision = "bfloat16"
    described = config.experiment(given)
    assert described.model.settings().precision == "bfloat16"
    assert described.train.search.precision == "float32"
    given.search.precision = "half"
    with pytest.raises(ValueError, match="got 'half'"):
        config.experiment(given)
