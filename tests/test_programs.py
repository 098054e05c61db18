"""Programs of losses that callers bring: new weights use them again, and they die with the loss."""

import dataclasses
import gc
import weakref
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import avae
from avae.training import distill

SEARCH = avae.Search(n_starts=4, top_k=1, n_local=(), n_refined=1, n_steps=1, solver=avae.Adam())
X = np.ones((2, 3), np.float32)


def test_a_loss_of_arrays_is_an_argument_of_the_program():
    traces = []

    def distance(weights, x, alpha):
        traces.append(1)
        return (alpha[0] - weights.mean() * x.mean()) ** 2

    poses, counts = [], []
    for weight in (0.5, -1.0):
        loss = jax.tree_util.Partial(distance, jnp.full(4, weight))
        poses.append(float(avae.search(loss, X, avae.Rotation(), settings=SEARCH).alpha[0, 0]))
        counts.append(len(traces))
    assert counts[0] == counts[1] > 0
    assert abs(poses[0] - 0.5) < abs(poses[0] + 1.0)
    assert abs(poses[1] + 1.0) < abs(poses[1] - 0.5)


def test_a_composite_loss_of_arrays_too():
    traces = []

    def predict(weights, x, alpha):
        traces.append(1)
        return alpha[0] - weights.mean() * x.mean()

    score = jax.tree_util.Partial(lambda x, u: u**2)
    curvature = jax.tree_util.Partial(lambda x, u: jnp.full_like(u, 2.0))
    counts = []
    for weight in (0.5, -1.0):
        loss = avae.CompositeLoss(jax.tree_util.Partial(predict, jnp.full(4, weight)), score, curvature)
        found = avae.search(loss, X, avae.Rotation(), settings={"n_starts": 4})
        np.testing.assert_allclose(found.alpha, weight, atol=1e-3)
        counts.append(len(traces))
    assert counts[0] == counts[1]


def test_a_closure_and_its_weights_die_together():
    def alive():
        weights = jnp.arange(5.0)
        loss = lambda x, alpha: (alpha[0] - weights.mean() * x.mean()) ** 2  # noqa: E731
        avae.search(loss, X, avae.Rotation(), settings=SEARCH)
        return weakref.ref(weights), weakref.ref(loss)

    references = [reference for _ in range(3) for reference in alive()]
    gc.collect()
    assert [reference() for reference in references] == [None] * 6


def test_distilling_again_compiles_nothing_again(params, images):
    few = avae.PoseNetwork(n_bins=4, hidden=(4,))
    search = avae.Search(n_starts=4, top_k=1, n_local=(), n_refined=1, n_steps=1)
    sizes = []
    for seed in (0, 1):
        avae.distill(params, images, key=jax.random.key(seed), pose_network=few, steps=2, batch_size=2, search=search)
        sizes.append(distill._steps._cache_size())
    assert sizes[0] == sizes[1]


@dataclasses.dataclass(frozen=True)
class Template:
    """A VAE whose weights are no dict."""

    image_shape: ClassVar[tuple[int, ...]] = (12, 12, 1)

    def encode(self, weights, x):
        return jnp.zeros(1), jnp.zeros(1)

    def decode(self, weights, z):
        return weights.picture if hasattr(weights, "picture") else weights[0]


class Named(NamedTuple):
    picture: jax.Array


@pytest.mark.parametrize("pytree", [lambda leaf: [leaf], lambda leaf: (leaf,), Named])
def test_weights_of_any_pytree_can_be_taught_where_to_search(images, pytree):
    params = avae.Params(pytree(jnp.asarray(images[0])), Template())
    few, search = avae.PoseNetwork(n_bins=4, hidden=(4,)), {"n_starts": 4, "n_steps": 1}
    taught = avae.distill(params, images, pose_network=few, steps=2, batch_size=2, search=search)
    np.testing.assert_allclose(*(avae.align(p, images, search=search).loss for p in (params, taught)), rtol=1e-5)
    assert avae.align(taught, images, search="fast").info.finite.all()
    again = avae.distill(taught, images, pose_network=few, steps=2, batch_size=2, search=search)
    assert jax.tree.structure(again.weights) == jax.tree.structure(taught.weights)


def test_a_pose_network_may_see_coarser_blocks_than_the_twin(params, images):
    network = avae.PoseNetwork(n_bins=4, hidden=(4,), coarse=4)  # 12 is divisible by 4, the twin's 6 is not
    search = {"n_starts": 4, "n_steps": 1}
    taught = avae.distill(params, images, pose_network=network, steps=2, batch_size=2, search=search)
    assert avae.align(taught, images, search=search).info.finite.all()
    assert avae.align(taught, images, search="fast").info.finite.all()


def test_pose_network_and_decoder_start_from_numbers_of_their_own():
    networks = avae.MLP(image_shape=(8, 8, 1), hidden=(16,), latent=16)
    model = avae.Model(networks, pose_network=avae.PoseNetwork(n_bins=8, hidden=(16,)))
    weights = avae.init(jax.random.key(0), model).weights
    ours = np.ravel(weights["pose_network"]["Dense_1"]["kernel"])
    for part in ("encoder", "decoder"):
        for layer in weights[part].values():
            theirs = np.ravel(layer["kernel"])
            n = min(len(ours), len(theirs))
            assert abs(np.corrcoef(ours[:n], theirs[:n])[0, 1]) < 0.5
