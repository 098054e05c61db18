"""Networks of one's own: what does not fit is a sentence that says what encode and decode take and return."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import avae

X = np.zeros((2, 6, 6, 1), np.float32)


def encode(weights, x):
    return x.reshape(-1)[:2], x.reshape(-1)[:2]


def decode(weights, z):
    return jnp.full((6, 6, 1), z.sum())


@dataclasses.dataclass(frozen=True)
class Pair:
    """Networks that do not say their shape."""

    encode: Any = encode
    decode: Any = decode


def params(networks, weights=None, **model):
    return avae.Params({} if weights is None else weights, avae.Model(networks, **model))


DOORS = {
    "align": lambda params: avae.align(params, X),
    "objective": lambda params: avae.objective(params, X),
    "encode": lambda params: avae.encode(params, X),
    "log_likelihood": lambda params: avae.log_likelihood(params, X),
    "pose_posterior": lambda params: avae.pose_posterior(params, X),
    "inside jit": lambda params: jax.jit(lambda x: avae.align(params, x).loss)(X),
    "with traced weights": lambda params: jax.jit(lambda params: avae.align(params, X).loss)(params),
}
RGB = Pair(decode=lambda weights, z: jnp.zeros((6, 6, 3)))  # would broadcast against grey images


@pytest.mark.parametrize("door", DOORS)
def test_shapes_that_would_broadcast_are_a_sentence_at_every_door(door):
    message = "networks: expected decode to take one example [2], without a batch axis, and to return raw output "
    with pytest.raises(avae.Mistake, match=re.escape(message + "[6, 6, 1], but it returns [6, 6, 3]")):
        DOORS[door](params(RGB, {"w": jnp.zeros(1)}, likelihood=avae.Gaussian(1.0)))


BATCHED = Pair(lambda weights, x: (x.mean(axis=(1, 2, 3)),) * 2)
DENSE = Pair(lambda weights, x: jnp.split(x.reshape(x.shape[0], -1) @ weights["kernel"], 2, axis=-1))


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        (DENSE, r"encode .*\[6, 6, 1\].* mu \[z\] and logvar \[z\], but it raises TypeError: dot_general"),
        (BATCHED, r"encode .* but it raises IndexError: tuple index out of range"),
        (Pair(lambda weights, x: encode(weights, x)[0]), r"encode .* mu \[z\] and logvar \[z\], but it returns \[2\]$"),
        (Pair(lambda weights, x: (x, x)), r"encode .* but it returns \[6, 6, 1\] and \[6, 6, 1\]$"),
        (Pair(decode=lambda weights, z: jnp.zeros(36)), r"decode .* raw output \[6, 6, 1\], but it returns \[36\]$"),
        (Pair(decode=lambda weights, z: jnp.zeros((1, 6, 6, 1))), r"decode .* but it returns \[1, 6, 6, 1\]$"),
        (Pair(decode=lambda weights, z: jnp.zeros((5, 5, 1))), r"decode .* but it returns \[5, 5, 1\]$"),
        (Pair(decode=lambda weights, z: weights["w"]), "decode .* but it raises KeyError: 'w'$"),
    ],
)
def test_what_does_not_fit_is_a_sentence(networks, message):
    with pytest.raises(avae.Mistake, match=f"^networks: expected {message}"):
        avae.align(params(networks, {"kernel": jnp.zeros((36, 4))}), X)


def test_functions_among_the_weights_are_a_sentence():
    odd = params(Pair(), {"kernel": jnp.zeros(1), "activation": jax.nn.relu})
    message = r"weights that are a pytree of arrays, got .* at \['activation'\]; keep"
    for door in ("align", "log_likelihood"):
        with pytest.raises(avae.Mistake, match=message):
            DOORS[door](odd)


def test_networks_that_cannot_be_hashed_are_a_sentence():
    @dataclasses.dataclass
    class Mutable:
        encode: Any = encode
        decode: Any = decode

    with pytest.raises(avae.Mistake, match="hashable model"):
        params(Mutable())


def test_networks_that_fit_pass():
    assert DOORS["objective"](params(Pair())).total.shape == (2,)
    assert jax.eval_shape(DOORS["inside jit"], params(Pair())).shape == (2,)
