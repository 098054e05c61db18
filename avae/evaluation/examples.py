"""Test examples for the figures: a few to look at closely, and all of them with their latents."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from avae.align import Alignment
from avae.data.dataset import Examples
from avae.evaluation.losses import plain_reconstruction
from avae.model import Params


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
