"""A second call of the same shapes traces nothing: compiled once per model, settings and shape."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

import avae

SEARCH = avae.Search(n_starts=4, top_k=2, n_local=(), n_steps=2)


@dataclasses.dataclass(frozen=True)
class Counting:
    """A VAE that counts how often it is traced."""

    name: str
    traces: ClassVar[list[str]] = []

    def encode(self, weights, x):
        self.traces.append(self.name)
        return weights["mu"] * x.mean(), weights["mu"]

    def decode(self, weights, z):
        return weights["logits"] + z[0]


def counting_params(name, seed=0, side=8):
    rng = np.random.default_rng(seed)
    weights = {"mu": rng.normal(size=2), "logits": rng.normal(size=(side, side, 1))}
    return avae.Params(jax.tree.map(lambda leaf: leaf.astype(np.float32), weights), Counting(name))


def batch(seed, n=2, side=8):
    return np.random.default_rng(seed).random((n, side, side, 1), np.float32)


def test_align_compiles_once():
    count = lambda: Counting.traces.count("align")  # noqa: E731
    avae.align(counting_params("align"), batch(0), search=SEARCH)
    first = count()
    assert first == 2  # where it is checked that networks fit the images, and in J, for all stages of the search
    for seed in (1, 2):  # other images, other weights, equal but distinct model and settings
        with jax.no_tracing():
            avae.align(counting_params("align", seed), batch(seed), search=dataclasses.replace(SEARCH))
    assert count() == first
    jax.eval_shape(lambda x: avae.align(counting_params("align"), x, search=SEARCH), batch(0, n=3))
    assert count() == first  # J is traced for one image
    jax.eval_shape(lambda x: avae.align(counting_params("align", side=6), x, search=SEARCH), batch(0, side=6))
    assert count() > first  # one of another shape is traced anew: the count can move


def test_align_compiles_once_for_all_keys():
    params, x, keys = counting_params("keys"), batch(0), list(jax.random.split(jax.random.key(0), 2))
    search = dataclasses.replace(SEARCH, n_steps=0)
    one = avae.align(params, x, key=keys[0], search=search)
    first = len(Counting.traces)
    with jax.no_tracing():
        two = avae.align(params, x, key=keys[1], search=search)
    assert len(Counting.traces) == first
    assert (one.info.start_losses != two.info.start_losses)[:, 1:].all()


def test_search_compiles_once():
    traces = []

    def loss(x, alpha):
        traces.append(x)
        return jnp.sum(jnp.sin(alpha) * x)

    settings = dataclasses.replace(SEARCH, solver=avae.Adam())
    avae.search(loss, np.ones(2, np.float32), avae.Rotation(), settings=settings)
    first = len(traces)
    assert first > 0
    with jax.no_tracing():
        avae.search(loss, np.zeros(2, np.float32), avae.Rotation(), settings=dataclasses.replace(settings))
    assert len(traces) == first
    avae.search(loss, np.ones(3, np.float32), avae.Rotation(), settings=settings)
    assert len(traces) > first
