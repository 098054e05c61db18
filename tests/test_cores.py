"""Parts of a batch side by side on the cores of a CPU: the same results, and no part where there should be none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from avae.runtime.cores import parts_at_once, side_by_side

import avae
from avae.runtime import cores


@pytest.fixture
def four_cores(monkeypatch):
    monkeypatch.setattr(cores, "n_cores", lambda: 4)


@pytest.mark.parametrize(("batch", "parts"), [(64, 4), (48, 3), (34, 2), (66, 3), (31, 1), (67, 1), (1, 1)])
def test_parts_are_equal_and_not_too_small(four_cores, batch, parts):
    assert parts_at_once(jnp.zeros((batch, 2))) == parts


def test_a_trace_is_one_part(four_cores):
    seen = []
    jax.jit(lambda x: seen.append(parts_at_once(x)))(jnp.zeros((64, 2)))
    assert seen == [1]


def test_align_by_parts_is_align(four_cores, params, images):
    x = np.tile(images, (11, 1, 1, 1))[:32]
    apart = avae.align(params, x)
    assert parts_at_once(jnp.asarray(x)) == 2
    whole = jax.jit(lambda x: avae.align(params, x))(x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), apart, whole)
    assert apart.canonical.shape == x.shape


def test_each_part_goes_through_once_and_in_order():
    sizes = []

    def double(part):
        sizes.append(len(part))
        return {"twice": 2 * jnp.asarray(part), "sum": jnp.asarray(part).sum(1)}

    x = jnp.arange(12.0).reshape(6, 2)
    found = side_by_side(double, x, 3)
    assert sizes == [2, 2, 2]
    np.testing.assert_array_equal(found["twice"], 2 * x)
    np.testing.assert_array_equal(found["sum"], x.sum(1))


def test_what_a_with_has_changed_holds_for_all_of_the_batch():
    with jax.enable_x64(True):
        found = side_by_side(lambda part: jnp.asarray(part) + np.float64(1e-12), jnp.ones((4, 1)), 2)
    assert found.dtype == jnp.float64
    assert (np.asarray(found) > 1).all()


def test_an_error_in_a_part_is_raised():
    def fail(part):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        side_by_side(fail, jnp.ones((4, 1)), 2)
