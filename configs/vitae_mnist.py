"""VITAE's MNIST (Detlefsen & Hauberg 2019): digits turned by up to 20 degrees and shifted, two latents, an MLP.

    python train.py --config=configs/vitae_mnist.py

Shifts are up to 0.1 of the image's width (0.2 half-widths) along each axis. The poses searched are those of the data,
so that the bound on log p(x) pays for a pose in this range.
"""

import math

from ml_collections import ConfigDict

from avae.config import default


def get_config() -> ConfigDict:
    """The main job with two latents, and poses from a small box: few starts find them."""
    config = default()
    for transform in (config.data.transform, config.transform):
        transform.update(name="rigid", max_angle=math.radians(20), max_shift=0.2)
    config.model.latent = 2
    config.train.update(epochs=60, search_every=10)
    config.train.search.update(n_starts=16)
    config.evaluation.update(n_exhaustive=128, n_angles=1024, n_curve=64, curve_step=30)
    return config
