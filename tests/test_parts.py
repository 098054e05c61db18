"""Parts of a batch: how many bytes are counted, that parts give what the whole gives, and one part per core."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import avae
from avae.align import _align
from avae.runtime import parts
from avae.runtime.parts import Layout, in_parts, parts_at_once, peak_bytes, side_by_side

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
        (jax.jit(chain), (100,), 3),  # as if it were not compiled by itself
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
    jaxpr = jax.make_jaxpr(lambda arrays: in_parts(work, arrays, memory=budget))(batch(n)).jaxpr
    return [equation.params["length"] for equation in jaxpr.eqns if equation.primitive.name == "scan"]


@pytest.mark.parametrize("n", [1, 6, 7])
@pytest.mark.parametrize("budget", [1, 10_000, 14_000, 10**9])
def test_parts_equal_the_whole(n, budget):
    found = jax.jit(lambda arrays: in_parts(work, arrays, memory=budget))(batch(n))
    whole = jax.vmap(work)(batch(n))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(whole), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_single_example_always_goes_through():
    assert lengths(1, 1) == []
    assert lengths(6, 1) == [6]


def test_one_loop_has_one_shape_and_is_longer_with_less_memory():
    budgets = (10**9, 50_000, 32_000, 27_000, 23_000, 1)
    found = [lengths(12, budget) for budget in budgets]
    assert all(len(loops) <= 1 for loops in found)
    counts = [loops[0] if loops else 1 for loops in found]
    assert counts == sorted(counts)
    assert counts[0] == 1
    assert counts[-1] == 12
    assert len(set(counts)) >= 4


@pytest.mark.parametrize("budget", [30_000, 40_000, 60_000])
def test_what_goes_through_at_once_fits(budget):
    n = 12
    example = jax.tree.map(lambda leaf: leaf[0], batch(n))
    whole = n * (100 * 4 + 4 + 100 * 4 + 4)
    (n_parts,) = lengths(n, budget) or (1,)
    at_once = -(-n // n_parts)
    assert whole + at_once * peak_bytes(work, example) <= parts.SHARE * budget
    if n_parts > 1:  # one more would not fit
        fewer = -(-n // (n_parts - 1))
        assert whole + fewer * peak_bytes(work, example) > parts.SHARE * budget


SEARCH = avae.Search(n_starts=8, top_k=2, n_local=(), n_steps=1)


def align_with(memory, params, images, monkeypatch):
    """`align`, traced anew, as if a device had so many bytes."""
    monkeypatch.setattr(parts, "budget", lambda: memory)
    _align.clear_cache()  # it is compiled once, whatever the budget becomes
    return avae.align(params, images, search=SEARCH)


def test_align_with_little_memory_finds_the_same(params, images, monkeypatch):
    whole = align_with(2**40, params, images, monkeypatch)
    needed, shapes = [], []

    def counted(*args):
        needed.append(peak_bytes(*args))
        return needed[-1]

    def watched(function, index):
        if isinstance(index, jax.Array) and jnp.issubdtype(index.dtype, jnp.integer):
            shapes.append(index.shape)
        return lax.map(function, index)

    monkeypatch.setattr(parts, "peak_bytes", counted)
    monkeypatch.setattr(parts, "lax", types.SimpleNamespace(map=watched))
    align_with(1, params, images, monkeypatch)
    pairs = align_with(int(2.5 * needed[0] / parts.SHARE), params, images, monkeypatch)
    assert shapes == [(3, 1), (2, 2)]  # three images do not divide
    for a, b in zip(jax.tree.leaves(pairs), jax.tree.leaves(whole), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-3)


def test_parts_at_once_share_the_memory():
    def loops(at_once):
        layout = Layout(at_once=at_once)
        jaxpr = jax.make_jaxpr(lambda arrays: in_parts(work, arrays, layout, memory=60_000))(batch(12)).jaxpr
        return [equation.params["length"] for equation in jaxpr.eqns if equation.primitive.name == "scan"]

    assert (loops(1) or [1])[0] < loops(2)[0]


def test_the_budget_is_that_of_the_device(monkeypatch):
    def device(stats):
        monkeypatch.setattr(jax, "local_devices", lambda: [types.SimpleNamespace(memory_stats=lambda: stats)])
        return parts.budget()

    assert device(None) == device({}) == 2 * 2**30
    assert device({"bytes_limit": 1000}) == 500


# --- one part per core ----------------------------------------------------------------------------------------------


@pytest.fixture
def four_cores(monkeypatch):
    monkeypatch.setattr(parts, "n_cores", lambda: 4)


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize(("batch", "n"), [(64, 4), (48, 3), (34, 2), (67, 4), (31, 1), (1, 1)])
def test_one_part_per_core_unless_it_is_too_small(batch, n):
    assert parts_at_once(jnp.zeros((batch, 2))) == n


@pytest.mark.usefixtures("four_cores")
def test_a_trace_is_one_part():
    seen = []
    jax.jit(lambda x: seen.append(parts_at_once(x)))(jnp.zeros((64, 2)))
    assert seen == [1]


@pytest.mark.usefixtures("four_cores")
def test_align_side_by_side_is_align(params, images):
    x = np.tile(images, (13, 1, 1, 1))[:37]  # an odd number of images, too
    apart = avae.align(params, x, search=SEARCH)
    assert parts_at_once(jnp.asarray(x)) == 2
    whole = jax.jit(lambda x: avae.align(params, x, search=SEARCH))(x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), apart, whole)
    assert apart.canonical.shape == x.shape


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize("n", [64, 67, 35])
def test_parts_are_of_one_shape_and_come_back_in_order(n):
    shapes = []

    def double(part, layout):
        shapes.append((part.shape, layout))
        return {"twice": 2 * jnp.asarray(part), "sum": jnp.asarray(part).sum(1)}

    x = jnp.arange(2.0 * n).reshape(n, 2)
    found = side_by_side(double, x)
    assert len(set(shapes)) == 1
    assert len(shapes) == shapes[0][1].at_once == parts_at_once(x)
    np.testing.assert_array_equal(found["twice"], 2 * x)
    np.testing.assert_array_equal(found["sum"], x.sum(1))


@pytest.mark.usefixtures("four_cores")
def test_what_a_with_has_changed_holds_for_all_of_the_batch():
    with jax.enable_x64(True):
        found = side_by_side(lambda part, layout: jnp.asarray(part) + np.float64(1e-12), jnp.ones((64, 1)))
    assert found.dtype == jnp.float64
    assert (np.asarray(found) > 1).all()


@pytest.mark.usefixtures("four_cores")
def test_an_error_in_a_part_is_raised():
    def fail(part, layout):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        side_by_side(fail, jnp.ones((64, 1)))


def test_a_control_group_bounds_the_cores(tmp_path):
    assert parts.quota(tmp_path) == np.inf  # no control group
    (tmp_path / "cpu").mkdir()
    for name, value in (("quota", "50000"), ("period", "100000")):
        (tmp_path / "cpu" / f"cpu.cfs_{name}_us").write_text(value + "\n")
    assert parts.quota(tmp_path) == 0.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert parts.quota(tmp_path) == np.inf
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert parts.quota(tmp_path) == 1.5


def test_few_rows_at_a_time_give_what_all_give():
    rows = jnp.arange(13.0)
    for size in (10, 1000, 10**5):
        shapes = []
        twice = lambda row, shapes=shapes: shapes.append(row.shape) or jnp.sin(row) * 2  # noqa: E731
        np.testing.assert_allclose(parts.in_turn(twice, rows, jnp.zeros(size)), np.sin(rows) * 2, rtol=1e-6)
        assert len(shapes) == 1  # traced once, whatever is left over
