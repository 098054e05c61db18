"""Networks that compute in bfloat16 while training: weights, warps and losses stay float32."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_frame import Shapeless

import avae
from avae import config
from avae.networks.precision import Cast

TOLERANCE = 0.01  # of the loss: bfloat16 has 8 bits, and J sums over pixels


def test_the_loss_is_nearly_that_of_float32(params, images):
    exact = avae.objective(params, images).total
    rounded = avae.objective(params.in_precision("bfloat16"), images).total
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(rounded, exact, rtol=TOLERANCE)
    assert (jnp.abs(exact - rounded) > 1e-4).any()  # so the line above can tell
    assert params.in_precision("float32") is params


def test_the_twin_computes_in_bfloat16(params):
    twin = params.in_precision("bfloat16").reduced(2)
    assert twin.model.image_shape == (6, 6, 1)
    text = str(jax.make_jaxpr(lambda z: twin.model.networks.decode(twin.weights, z))(jnp.zeros(3)))
    assert all("bf16" in line for line in text.splitlines() if "dot_general" in line)
    assert not avae.Model(networks=Cast(avae.Conv(image_shape=(8, 8, 1)), "bfloat16")).reducible(2)


def test_a_vae_of_one_s_own_without_a_shape(images):
    rounded = avae.Params({}, Shapeless()).in_precision("bfloat16")
    assert rounded.model.image_shape is None
    found = avae.align(rounded, images, search={"n_starts": 4, "n_steps": 1})
    assert found.info.finite.all()


def test_it_is_a_setting_of_a_config():
    given = config.default()
    assert config.experiment(given).train.precision == "float32"
    given.train.precision = "bfloat16"
    assert config.experiment(given).train.precision == "bfloat16"
    given.train.precision = "half"
    with pytest.raises(avae.Mistake, match="precision: expected one of float32, bfloat16, got 'half'"):
        config.experiment(given)


def test_a_training_step_is_nearly_that_of_float32(images):
    from avae.training.step import init_state, train_step

    given = config.default()
    given.update_from_flattened_dict(
        {"model.image_shape": (12, 12, 1), "model.hidden": (16,), "model.latent": 2, "train.search.n_starts": 4}
        | {"train.search.n_steps": 1, "train.batch_size": 3}
    )
    losses = {}
    for precision in ("float32", "bfloat16"):
        described = config.experiment(given)
        described = dataclasses.replace(described, train=dataclasses.replace(described.train, precision=precision))
        state, metrics = train_step(init_state(described), images, described)
        losses[precision] = metrics["loss"]
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state.params.weights))
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=TOLERANCE)
    assert losses["bfloat16"] != losses["float32"]
