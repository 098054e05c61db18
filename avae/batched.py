"""Any number of images, a batch at a time: bounded memory, one compilation, progress on standard error."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array, lax

from avae.logs import Progress
from avae.model import Params
from avae.objective import objective

BATCH = 500


def over_batches(function: Callable[..., Any], arrays: tuple[np.ndarray, ...], label: str) -> Any:
    """Calls `function` on equal batches of `arrays` and joins the results on the host.

    The last batch repeats its last example rather than being shorter: one shape, one compilation.

    Args:
      function: takes one batch [b, ...] of each array, returns a pytree of arrays [b, ...].
      arrays: arrays [N, ...], N >= 1.
      label: what is being done, for people.

    Returns:
      The pytree with arrays [N, ...].
    """
    n = len(arrays[0])
    size = math.ceil(n / math.ceil(n / BATCH))
    parts = []
    with Progress(label, n, unit="image", every=max(1, n // 4)) as progress:
        for start in range(0, n, size):
            index = np.minimum(np.arange(start, start + size), n - 1)
            parts.append(jax.device_get(function(*(array[index] for array in arrays))))
            progress.advance(min(size, n - start))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:n], *parts)


@jax.jit
def plain_loss(params: Params, x: Array) -> Array:
    """J [B] in nats of a plain VAE pass over images [B, *space, C], z at the posterior mean."""
    return objective(params, x).total


@functools.partial(jax.jit, static_argnames="draws")
def sampled_loss(params: Params, x: Array, alpha: Array | None, key: Array, draws: int) -> Array:
    """J [B] in nats at poses `alpha` [B, size] (None: no warp) as the mean over `draws` draws of z."""
    keys = jax.random.split(key, draws)
    return lax.map(lambda key: objective(params, x, alpha, key).total, keys).mean(axis=0)


@jax.jit
def plain_reconstruction(params: Params, x: Array) -> Array:
    """Pixel means [B, *space, C] of a plain VAE pass over x [B, *space, C], z at the posterior mean."""
    model, weights = params.model, params.weights
    return jax.vmap(lambda x: model.decode(weights, model.encode(weights, x).mu))(x)
