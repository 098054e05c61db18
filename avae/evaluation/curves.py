"""Loss against rotation: upright examples turned by known angles (Bidart & Wong 2019, figures 3 and 5)."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from avae.align import align
from avae.data.dataset import binarize
from avae.evaluation.losses import plain_loss
from avae.model import Params
from avae.runtime.batches import over_batches
from avae.runtime.devices import replicate
from avae.transforms.warp import warp


def loss_curves(
    models: dict[str, Params],
    upright: np.ndarray,
    step: int,
    binarized: str,
    key: Array,
    background: tuple[float, ...] = (0.0,),
) -> dict[str, Any]:
    """Mean J (z at the posterior mean) of upright examples turned by each angle, for each model, both ways.

    Args:
      models: what is measured, by its key in results.json.
      upright: grey examples [N, *space, C]; volumes are turned about the z axis.
      step: between the angles, in degrees.
      binarized: how turned examples are binarized, see `avae.data.Data`.
      key: draws the pixels, where they are drawn.
      background: the level outside of the examples, for all channels or for each.

    Returns:
      The numbers, for results.json: `series` by "<model>_search" and "<model>_no_search".
    """
    n, degrees = len(upright), np.arange(0, 360, step)
    matrices = turns(np.radians(np.repeat(degrees, n)), upright.ndim - 2)
    which = np.tile(np.arange(n), len(degrees))
    low, high = min(*background, float(upright.min())), max(*background, float(upright.max()))
    pictures = replicate(upright)

    numbers: dict[str, Any] = {"n_images": n, "angles": degrees.tolist(), "series": {}}
    for name, params in models.items():

        def both(which: Array, matrix: Array, params: Params = params) -> tuple[Array, Array]:
            turned = jnp.clip(warp(pictures[which], matrix, background), low, high)  # against rounding
            x = jnp.asarray(binarize(turned, binarized, key))
            return align(params, x).loss, plain_loss(params, x)

        losses = over_batches(both, (which, matrices), f"{name}, loss against rotation", example=upright.shape[1:])
        searched, plain = (loss.reshape(len(degrees), n) for loss in losses)
        for suffix, loss in (("search", searched), ("no_search", plain)):
            numbers["series"][f"{name}_{suffix}"] = _range(degrees, loss.mean(axis=1, dtype=np.float64))
        numbers["series"][f"{name}_search"]["worst_harm"] = float((searched[0] - plain[0]).max())
    return numbers


def turns(angles: np.ndarray, dim: int) -> np.ndarray:
    """Pull maps [N, dim, dim+1] that turn pictures, or the x-y slices of volumes, counter-clockwise by `angles` [N]."""
    matrices = np.tile(np.eye(dim, dim + 1, dtype=np.float32), (len(angles), 1, 1))
    cos, sin = np.cos(angles), np.sin(angles)
    matrices[:, :2, :2] = np.moveaxis(np.array([[cos, -sin], [sin, cos]]), -1, 0)
    return matrices


def _range(degrees: np.ndarray, loss: np.ndarray) -> dict[str, Any]:
    """A curve and its best and worst angle, leaving out multiples of 90: not resampled, the image is sharper there."""
    resampled = loss[degrees % 90 != 0]
    best, worst = (float(resampled.min()), float(resampled.max())) if len(resampled) else (None, None)
    spread = None if best is None or worst is None else worst - best
    return {"loss": loss.tolist(), "upright": float(loss[0]), "best": best, "worst": worst, "range": spread}
