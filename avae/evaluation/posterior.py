"""How sure the poses are: the posterior of the pose of the first test images, and the least certain of them."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np

from avae.evaluation.likelihood import normalised
from avae.evaluation.metrics import mean_and_error
from avae.experiment import Evaluation
from avae.inference.posterior import PosePosterior, pose_posterior
from avae.model import Params
from avae.runtime.batches import over_batches

N_IMAGES, N_SHOWN = 64, 8


class Uncertain(NamedTuple):
    """The least certain images [n, *space, C], the posterior of their poses, and the numbers for results.json."""

    images: np.ndarray
    posterior: PosePosterior
    numbers: dict[str, Any]


def least_certain(params: Params, images: np.ndarray, settings: Evaluation) -> Uncertain | None:
    """Of the first 64 test images (or `n_bound`), the eight whose pose has the posterior of the highest entropy.

    Args:
      params: the model, trained with search.
      images: test images [N, *space, C].
      settings: at most `n_bound` images, `bound_samples` draws for each.

    Returns:
      They and their posterior; None where none is asked for, the likelihood is not normalised, or no entropy is finite.
    """
    images = images[: min(settings.n_bound, N_IMAGES)]
    if not len(images) or not normalised(params):
        return None

    def posterior(x: np.ndarray, index: np.ndarray) -> PosePosterior:
        key = jax.random.fold_in(jax.random.key(2), int(index[0]))
        return pose_posterior(params, x, key=key, n_samples=settings.bound_samples)

    found = over_batches(posterior, (images, np.arange(len(images))), "avae, posterior of the pose")
    finite = np.flatnonzero(np.isfinite(found.entropy))
    if not len(finite):
        return None
    chosen = finite[np.argsort(-found.entropy[finite], kind="stable")[:N_SHOWN]]
    shown = jax.tree.map(lambda leaf: leaf[chosen], found)
    numbers = {
        "n_images": len(images),
        "n_samples": settings.bound_samples,
        "entropy": mean_and_error(found.entropy[finite]),
        "prior_entropy": sum(math.log(factor.volume) for factor in params.model.transform.factors),
        "least_certain": [
            {
                "index": int(index),
                "entropy": float(shown.entropy[i]),
                "effective_samples": float(shown.evidence.effective_samples[i]),
                "modes": shown.modes[i].tolist(),
                "weights": shown.weights[i].tolist(),
            }
            for i, index in enumerate(chosen)
        ],
    }
    return Uncertain(images[chosen], shown, numbers)
