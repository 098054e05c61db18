"""Test examples for the figures: a few to look at closely, and all of them with their latents."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from avae.align import Alignment
from avae.data.dataset import Examples
from avae.evaluation.losses import plain_reconstruction
from avae.generate import decode
from avae.model import Params

MAX_STRIPS = 8


class Pictures(NamedTuple):
    """One test example per class with what became of it, each [N, *space, C]; `matrix` [N, d, d+1]."""

    images: np.ndarray
    canonical: np.ndarray
    reconstruction: np.ndarray
    matrix: np.ndarray
    plain: np.ndarray | None


class Points(NamedTuple):
    """Test examples [N, *space, C], their canonical forms [N, *frame, C], latent means [N, L] and labels [N]."""

    images: np.ndarray
    canonical: np.ndarray
    latent: np.ndarray
    labels: np.ndarray


class Strips(NamedTuple):
    """Decoded latents along K directions from the mean, `steps` [S] standard deviations away; [K, S, *frame, C]."""

    names: list[str]
    steps: np.ndarray
    pictures: np.ndarray


def strips(params: Params, latent: np.ndarray) -> Strips | None:
    """What a model decodes along each latent, or along the first eight principal axes where there are more latents.

    Args:
      params: the model.
      latent: means of the latents of examples [N, L]; those that are not finite are left out.

    Returns:
      -2 to 2 standard deviations of the examples around their mean; None where no example is finite.
    """
    latent = np.asarray(latent, np.float64)
    latent = latent[np.isfinite(latent).all(axis=1)]
    if not len(latent):
        return None
    mean, n = latent.mean(axis=0), latent.shape[1]
    if n <= MAX_STRIPS:
        names, directions = [f"latent {k + 1}" for k in range(n)], np.diag(latent.std(axis=0))
    else:
        _, sizes, axes = np.linalg.svd(latent - mean, full_matrices=False)
        directions = (sizes[:, None] / np.sqrt(len(latent)) * axes)[:MAX_STRIPS]
        names = [f"axis {k + 1}" for k in range(len(directions))]
    steps = np.linspace(-2, 2, 9)
    z = mean + steps[:, None] * directions[:, None]
    pictures = np.asarray(decode(params, z.reshape(-1, n)))
    return Strips(names, steps, pictures.reshape(*z.shape[:2], *pictures.shape[1:]))


def chosen(test: Examples, found: Alignment, baseline: Params | None) -> Pictures:
    """The first example of each class, at least eight and at most twelve examples in all."""
    _, first = np.unique(test.labels, return_index=True)
    others = np.setdiff1d(np.arange(len(test.labels)), first)
    first = np.concatenate([first, others])[: np.clip(len(first), 8, 12)]
    images = test.images[first]
    plain = None if baseline is None else np.asarray(plain_reconstruction(baseline, jnp.asarray(images)))
    canonical, reconstruction, matrix = (
        np.asarray(array)[first] for array in (found.canonical, found.reconstruction, found.matrix)
    )
    return Pictures(images, canonical, reconstruction, matrix, plain)
