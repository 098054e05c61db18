"""How far an AVAE beats a plain VAE: in J, and in a lower bound on log p(x), which pays for the pose."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from avae.evaluation.metrics import mean_and_error
from avae.experiment import Evaluation
from avae.inference.bounds import log_likelihood
from avae.inference.checks import check_likelihood
from avae.inference.importance import Bound
from avae.model import Params
from avae.runtime.batches import over_batches

METHODS = {"no_search": "iwae", "search": "importance"}  # without poses, and B4


def bounds(models: Mapping[str, Params], images: np.ndarray, settings: Evaluation) -> dict[str, Any] | None:
    """Bounds on log p(x) of the first test images, by as many draws for every model; None where there can be none.

    Args:
      models: "avae" and maybe "plain_vae".
      images: test images [N, *space, C].
      settings: `n_bound` images, `bound_samples` draws.

    Returns:
      For each model, with poses ("search", B4) and without ("no_search"), the mean over images and its standard error,
      in nats, and the mean effective number of draws; for two models `gain`, by how much the AVAE's bound with poses is
      higher than that of the plain VAE without, paired by image. On grey pixels a Bernoulli likelihood is a
      cross-entropy, and so is its bound.
    """
    images = images[: settings.n_bound]
    if not len(images) or not all(normalised(model) for model in models.values()):
        return None
    found = {name: _both(model, name, images, settings.bound_samples) for name, model in models.items()}
    numbers: dict[str, Any] = {
        name: {
            way: mean_and_error(bound.value) | {"effective_samples": float(np.mean(bound.effective_samples))}
            for way, bound in both.items()
        }
        for name, both in found.items()
    }
    numbers |= {"n_images": len(images), "n_samples": settings.bound_samples, "gain": None}
    if len(found) == 2:
        numbers["gain"] = mean_and_error(found["avae"]["search"].value - found["plain_vae"]["no_search"].value)
    return numbers


def gain(losses: Mapping[str, tuple[np.ndarray, np.ndarray]], same_size: bool) -> dict[str, Any] | None:
    """How far J of the AVAE lies below that of the plain VAE: z sampled, paired by image.

    Args:
      losses: for each model J [N] without and with search; each is taken as it was trained.
      same_size: whether the networks are of one size.
    """
    if "plain_vae" not in losses:
        return None
    return mean_and_error(losses["plain_vae"][0] - losses["avae"][1]) | {"same_size": same_size}


def _both(params: Params, name: str, images: np.ndarray, n_samples: int) -> dict[str, Bound]:
    def bounds(x: np.ndarray, index: np.ndarray) -> dict[str, Bound]:
        key = jax.random.fold_in(jax.random.key(1), int(index[0]))
        return {
            way: log_likelihood(params, x, key=key, method=method, n_samples=n_samples)
            for way, method in METHODS.items()
        }

    return over_batches(bounds, (images, np.arange(len(images))), f"{name}, bound on log p(x)")


def normalised(params: Params) -> bool:
    """Whether the likelihood of a model is one: without, there is neither a bound nor a posterior."""
    try:
        check_likelihood(params)
    except ValueError:
        return False
    return True
