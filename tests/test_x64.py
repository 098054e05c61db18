"""Every public function once where JAX computes in 64 bits: the same results, in float32, up to rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import avae

SEARCH = avae.Search(n_starts=4, top_k=2, n_local=(2,), n_refined=1, n_steps=1)
FUNCTIONS = {
    "align": lambda params, x: avae.align(params, x, search=SEARCH),
    "objective": lambda params, x: avae.objective(params, x, np.zeros((3, 1)), jax.random.key(0)),
    "encode": avae.encode,
    "decode": lambda params, x: avae.decode(params, np.ones((3, 3))),
    "sample": lambda params, x: avae.sample(params, 2),
    "warp": lambda params, x: avae.warp(x, avae.Rotation().matrix(jnp.array([0.3], jnp.float32))),
    "search": lambda params, x: avae.search(
        lambda x, alpha: (alpha[0] - x.mean()) ** 2, x, avae.Rotation(), settings={"n_steps": 2}
    ),
    "pose_posterior": lambda params, x: avae.pose_posterior(params, x, n_samples=4, n_modes=2, search=SEARCH).entropy,
    "log_likelihood": lambda params, x: avae.log_likelihood(params, x, n_samples=4, n_modes=2, search=SEARCH),
    "distill": lambda params, x: avae.distill(
        params, x, steps=2, batch_size=2, pose_network=avae.PoseNetwork(n_bins=4, hidden=(4,)), search=SEARCH
    ).weights["pose_network"],
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_results_are_those_of_32_bits(params, images, name):
    function = FUNCTIONS[name]
    single = function(params, images)
    with jax.enable_x64(True):
        double = function(params, images)
    for a, b in zip(jax.tree.leaves(double), jax.tree.leaves(single), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype or not jnp.issubdtype(b.dtype, jnp.floating)
        if name != "distill":  # which draws whole numbers, of more bits
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-3)
        assert np.isfinite(np.asarray(a, float)).all()
