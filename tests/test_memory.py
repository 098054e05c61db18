"""How many bytes are counted, and that parts of a batch give what the whole gives."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import avae
from avae.runtime import parts as memory
from avae.runtime.parts import in_parts, peak_bytes

ROW = 100 * 4  # bytes of one array of the tests


def chain(x):
    return jnp.sin(jnp.cos(jnp.tan(x)))


def fork(x):
    return jnp.sin(x) * jnp.cos(x)


def scanned(x):
    return lax.scan(lambda carry, row: (carry + row, carry * 2.0), x[0], x)


@pytest.mark.parametrize(
    ("function", "shape", "arrays"),
    [
        (lambda x: x, (100,), 1),
        (chain, (100,), 3),  # x, and two of the chain at a time
        (fork, (100,), 4),  # x, both, and their product
        (lambda x: chain(x) + fork(x), (100,), 5),  # x, the chain's end, both of the fork, and their product
        (jax.jit(chain), (100,), 4),  # the result inside, and the one outside
        (scanned, (10, 100), 10 + 1 + 1 + 10 + 2),  # x, x[0] as sliced and squeezed, what is stacked, two in the body
        (lambda x: jnp.zeros(1000) + 1, (100,), 21),  # what does not depend on x counts as well
        (lambda x: 2.0 * x, (0,), 0),
    ],
)
def test_bytes_counted_by_hand(function, shape, arrays):
    counted = peak_bytes(function, jax.ShapeDtypeStruct(shape, np.float32))
    assert counted == arrays * ROW


def test_a_product_of_matrices_counts_all_three():
    a, b = jnp.zeros((20, 30)), jnp.zeros((30, 40))
    assert peak_bytes(jnp.dot, a, b) == 4 * (20 * 30 + 30 * 40 + 20 * 40)


def test_vmap_multiplies_what_is_counted():
    x = jnp.zeros((7, 100))
    assert peak_bytes(jax.vmap(chain), x) == 7 * peak_bytes(chain, x[0])


def test_types_have_their_sizes():
    assert peak_bytes(lambda x: x, jnp.zeros(8, jnp.bfloat16)) == 16
    assert peak_bytes(lambda x: x > 0, jnp.zeros(8)) == 32 + 8
    assert peak_bytes(lambda key: key, jax.random.key(0)) == 8


def work(example):
    return {"sine": jnp.sin(example["a"]) * example["b"], "sum": jnp.sum(jnp.cos(example["a"]))}


def batch(n):
    rng = np.random.default_rng(n)
    return {"a": rng.normal(size=(n, 100)).astype(np.float32), "b": rng.normal(size=n).astype(np.float32)}


def lengths(n, budget):
    """Lengths of the loops of which the batch is made: none where it goes through at once."""
    jaxpr = jax.make_jaxpr(lambda arrays: in_parts(work, arrays, budget))(batch(n)).jaxpr
    return [equation.params["length"] for equation in jaxpr.eqns if equation.primitive.name == "scan"]


@pytest.mark.parametrize("n", [1, 6, 7])
@pytest.mark.parametrize("budget", [1, 10_000, 14_000, 10**9])
def test_parts_equal_the_whole(n, budget):
    parts = jax.jit(lambda arrays: in_parts(work, arrays, budget))(batch(n))
    whole = jax.vmap(work)(batch(n))
    for a, b in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_single_example_always_goes_through():
    assert lengths(1, 1) == []
    assert lengths(6, 1) == [6]


def test_one_loop_has_one_shape_and_is_longer_with_less_memory():
    budgets = (10**9, 50_000, 32_000, 27_000, 23_000, 1)
    parts = [lengths(12, budget) for budget in budgets]
    assert all(len(loops) <= 1 for loops in parts)
    counts = [loops[0] if loops else 1 for loops in parts]
    assert counts == sorted(counts)
    assert counts[0] == 1
    assert counts[-1] == 12
    assert len(set(counts)) >= 4


@pytest.mark.parametrize("budget", [30_000, 40_000, 60_000])
def test_what_goes_through_at_once_fits(budget):
    n = 12
    example = jax.tree.map(lambda leaf: leaf[0], batch(n))
    whole = n * (100 * 4 + 4 + 100 * 4 + 4)
    (parts,) = lengths(n, budget) or (1,)
    at_once = -(-n // parts)
    assert whole + at_once * peak_bytes(work, example) <= memory.SHARE * budget
    if parts > 1:  # one more would not fit
        fewer = -(-n // (parts - 1))
        assert whole + fewer * peak_bytes(work, example) > memory.SHARE * budget


SEARCH = avae.Search(n_starts=8, top_k=2, n_local=0, n_steps=1)


def test_align_with_little_memory_finds_the_same(params, images, monkeypatch):
    whole = avae.align(params, images, search=dataclasses.replace(SEARCH, memory=2**40))
    needed, shapes = [], []

    def counted(*args):
        needed.append(peak_bytes(*args))
        return needed[-1]

    def watched(function, index):
        shapes.append(index.shape)
        return lax.map(function, index)

    monkeypatch.setattr(memory, "peak_bytes", counted)
    monkeypatch.setattr(memory, "lax", types.SimpleNamespace(map=watched))
    jax.eval_shape(lambda: avae.align(params, images, search=dataclasses.replace(SEARCH, memory=1)))
    room_for_two = int(2.5 * needed[0] / memory.SHARE)
    pairs = avae.align(params, images, search=dataclasses.replace(SEARCH, memory=room_for_two))
    assert shapes == [(3, 1), (2, 2)]  # three images do not divide
    for a, b in zip(jax.tree.leaves(pairs), jax.tree.leaves(whole), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("bytes_", [0, -5])
def test_memory_is_at_least_a_byte(bytes_):
    with pytest.raises(ValueError, match=f"memory in bytes, at least 1, or None, got {bytes_}"):
        avae.Search(memory=bytes_)


def test_the_budget_is_the_memory_given_or_that_of_the_device(monkeypatch):
    assert avae.Search(memory=123).budget == 123

    def device(stats):
        monkeypatch.setattr(jax, "local_devices", lambda: [types.SimpleNamespace(memory_stats=lambda: stats)])
        return avae.Search().budget

    assert device(None) == device({}) == 2 * 2**30
    assert device({"bytes_limit": 1000}) == 500
