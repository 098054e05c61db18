"""Poses, draws and bounds are float32 whatever JAX is set to: 64 bits and strict promotion change no result."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blocks import example

import avae
from avae.transforms import FAMILIES

FAMILY = {"finite": avae.QuarterTurns(), "quadrature": avae.Rotation()}
SEARCH = avae.Search(n_starts=4, top_k=2, n_steps=1)
CALLS = {
    "align": lambda params, x: avae.align(params, x, key=jax.random.key(0), search=SEARCH),
    "objective": lambda params, x: avae.objective(params, x, key=jax.random.key(0)),
    "posterior": lambda params, x: avae.pose_posterior(params, x, n_samples=4, search=SEARCH),
}
for method in ("multi_start", "finite", "laplace", "importance", "quadrature", "iwae"):
    CALLS[method] = lambda params, x, method=method: avae.log_likelihood(
        params, x, method=method, n_samples=4, search=None if method == "finite" else SEARCH
    )

MODES = {"64 bits": lambda: jax.enable_x64(True), "strict": lambda: jax.numpy_dtype_promotion("strict")}
each_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)


def types(tree):
    return {leaf.dtype for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)}


@pytest.mark.parametrize(
    ("call", "mode"), [(call, "64 bits") for call in CALLS] + [(call, "strict") for call in ("posterior", "laplace")]
)
def test_everything_runs_and_gives_float32(call, mode):
    params, x = example(FAMILY.get(call, avae.Rigid()))
    with MODES[mode]():
        assert types(jax.eval_shape(CALLS[call], params, x)) == {np.dtype("float32")}


@each_mode
def test_everything_runs_in_space_and_on_volumes(mode):
    params, x = example(avae.Rigid3D(), likelihood=avae.Gaussian())
    with mode():
        assert types(jax.eval_shape(CALLS["align"], params, x)) == {np.dtype("float32")}


@each_mode
@pytest.mark.parametrize("name", FAMILIES)
def test_families(name, mode):
    family = FAMILIES[name]()

    def made(key):
        found = family.sample(key), family.starts(4, key), family.identity, family.lattice, family.cell(8)
        other = family.project(family.retract(found[0], jnp.ones(family.dof)))
        return found, (other, family.log_prior(other), family.matrix(other))

    expected, _ = jax.jit(made)(jax.random.key(0))
    with mode():
        found, other = jax.jit(made)(jax.random.key(0))
    assert types([found, other]) == {np.dtype("float32")}
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@each_mode
@pytest.mark.parametrize("network", [avae.MLP((4, 4, 1), 2, (3,)), avae.Conv((4, 4, 1), 2, (2,), (2,), (2, 2))])
def test_fresh_weights(network, mode):
    key = jax.random.key(0)

    def fresh(key):
        return avae.init(key, avae.Model(network, avae.Gaussian())).weights

    expected = jax.jit(fresh)(key)
    with mode():
        found = jax.jit(fresh)(key)
    assert types(found) == {np.dtype("float32")}
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), found, expected))


@each_mode
def test_gradients(mode):
    params, x = example(avae.Rigid())
    with mode():
        found = jax.eval_shape(lambda: jax.grad(lambda params: avae.objective(params, x).total.sum())(params))
    assert types(found) == {np.dtype("float32")}
