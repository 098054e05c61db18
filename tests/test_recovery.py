"""The search finds known poses, with the network out of the loop: a picture warped by a random member, squared error.

Recovered means: what is left between the found and the true map is a rotation of less than 3 degrees, scales within
1 % and a shift of less than half a pixel. `benchmarks/recovery.py` does the same at full size, on digits.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import avae
from avae.transforms import FAMILIES
from avae.transforms.warp import compose, invert, warp_one

DESCENT = avae.Search(n_starts=1, top_k=1, n_local=(), n_steps=100, solver=avae.Adam())
CASES = {  # poses, fraction recovered at least, search
    "rotation": (32, 0.99, avae.Search(n_starts=32, top_k=2, n_local=(), n_steps=8)),
    "rigid": (32, 0.98, avae.Search(n_starts=64, top_k=4, n_local=(), n_refined=4, n_steps=10)),
    "similarity": (32, 0.97, avae.Search(n_starts=128, top_k=6, n_local=(), n_refined=6, n_steps=12)),
    "rotation3d": (12, 0.95, avae.Search(n_starts=256, top_k=4, n_local=(), n_refined=4, n_steps=10)),
}


def blobs(side, dim):
    """A smooth picture or volume [*space, 1] without symmetry."""
    spots = [  # centre, width, brightness
        ((0.5, 0.1, 0.1), 0.16, 1.0),
        ((-0.2, 0.45, -0.2), 0.14, 0.7),
        ((-0.3, -0.3, 0.4), 0.2, 0.9),
        ((0.1, -0.5, -0.3), 0.12, 0.5),
        ((0.0, 0.0, 0.0), 0.15, 0.6),
    ]
    grid = (np.stack(np.meshgrid(*[np.arange(side)] * dim, indexing="ij"), -1) + 0.5) / side * 2 - 1
    squares = [(((grid - centre[:dim]) ** 2).sum(-1), width, height) for centre, width, height in spots]
    return sum(height * np.exp(-s / (2 * width**2)) for s, width, height in squares)[..., None].astype(np.float32)


def recovered(found, true, side):
    """Which of the found pull maps [n, d, d+1] are the true ones, within 3 degrees, 1 % and half a pixel."""
    left = np.asarray(jax.vmap(lambda a, b: compose(a, invert(b)))(found, true), float)
    u, scales, v = np.linalg.svd(left[:, :, :-1])
    trace = np.trace(u @ v, axis1=1, axis2=2)
    angle = np.arccos(np.clip(trace / 2 if left.shape[1] == 2 else (trace - 1) / 2, -1, 1))
    shift = np.linalg.norm(left[:, :, -1], axis=1) * side / 2
    return (angle < np.radians(3)) & (np.abs(scales - 1).max(axis=1) < 0.01) & (shift < 0.5)


SLOW = ("similarity", "rotation3d")  # benchmarks/recovery.py measures all families


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CASES])
def test_known_poses_are_recovered(name):
    n, at_least, settings = CASES[name]
    family = FAMILIES[name]()
    side = 24 if family.dim == 2 else 16
    loss = avae.CompositeLoss(
        predict=lambda x, alpha: warp_one(x["source"], family.matrix(alpha)),
        score=lambda x, u: 0.5 * jnp.sum((u - x["target"]) ** 2),
        curvature=lambda x, u: jnp.ones_like(u),
    )
    source = np.stack([blobs(side, family.dim)] * n)
    true = jax.vmap(lambda key: family.matrix(family.sample(key)))(jax.random.split(jax.random.key(0), n))
    x = {"target": jax.vmap(warp_one)(source, true), "source": source}

    def fraction(settings):
        found = avae.search(loss, x, family, settings=settings)
        return recovered(jax.vmap(family.matrix)(found.alpha), true, side).mean()

    assert fraction(settings) >= at_least
    assert fraction(DESCENT) <= 0.5


def test_what_counts_as_recovered():
    true = jnp.array([[0.0, -1.2, 0.1], [1.2, 0.0, -0.2]])
    turn = lambda degrees: avae.Rotation().matrix(jnp.radians(jnp.array([degrees])))  # noqa: E731
    scale = lambda factor: jnp.array([[factor, 0.0, 0.0], [0.0, 1.0, 0.0]])  # noqa: E731
    shift = lambda pixels: jnp.array([[1.0, 0.0, pixels / 12], [0.0, 1.0, 0.0]])  # noqa: E731
    close = [turn(2.9), scale(1.009), shift(0.49)]
    far = [turn(3.1), turn(-177.0), scale(1.011), scale(0.989), scale(-1.0), shift(0.51)]
    found = jnp.stack([compose(left, true) for left in close + far])
    np.testing.assert_array_equal(recovered(found, jnp.stack([true] * 9), 24), [True] * 3 + [False] * 6)
