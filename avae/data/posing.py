"""Images at poses: stretched, warped once, and made binary."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from avae.transforms import Transform
from avae.transforms.warp import compose, warp_one

CHUNK = 2**22  # pixels posed at once: some tens of MB


@functools.partial(jax.jit, static_argnames=("transform", "background"))
def repose(
    images: Array,
    poses: Array,
    transform: Transform,
    factors: Array | None = None,
    background: tuple[float, ...] = (0.0,),
) -> Array:
    """Each upright image [B, *space, C] stretched by its factors [B, dim], if any, and at its pose [B, size].

    One warp for both, so that it is blurred once. Against rounding, values are clipped to [0, 1], or to the image's own
    and the background's range where that is wider.
    """

    def one(image: Array, pose: Array, factor: Array | None) -> Array:
        matrix = transform.matrix(pose)
        if factor is not None:
            shift = jnp.zeros_like(factor)[:, None]
            matrix = compose(jnp.concatenate([jnp.diag(1 / factor), shift], axis=1), matrix)
        low, high = jnp.minimum(image.min(), min(0, *background)), jnp.maximum(image.max(), max(1, *background))
        return jnp.clip(warp_one(image, matrix, outside=background), low, high)

    return jax.vmap(one)(images, poses, factors)


def binarize(images: ArrayLike, how: str, key: Array) -> ArrayLike:
    """Grey images by one of the ways of `avae.data.dataset.Data`: "none", "threshold", or "sample" drawn by `key`."""
    if how == "threshold":
        return (jnp.asarray(images) > 0.5).astype(jnp.float32)
    if how == "sample":
        return jax.random.bernoulli(key, jnp.asarray(images)).astype(jnp.float32)
    return images


def posed(
    images: np.ndarray, poses: Array, transform: Transform, stretches: Array | None, background: tuple[float, ...]
) -> np.ndarray:
    """`repose` of any number of images, in chunks of bounded memory."""
    size = min(500, max(1, CHUNK // math.prod(images.shape[1:])))
    moved = np.empty_like(images)
    for start in range(0, len(images), size):
        rows = slice(start, start + size)
        factors = None if stretches is None else stretches[rows]
        moved[rows] = repose(images[rows], poses[rows], transform, factors, background)
    return moved
