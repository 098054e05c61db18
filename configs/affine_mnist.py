r"""Digits at random affine poses: any rotation, two scales, shear and shift; an AVAE that searches all of them.

    python train.py --config=configs/affine_mnist.py

Ranges: `--config.data.transform.max_shear=1.43 --config.transform.max_shear=1.43` for shears of up to 55 degrees, as in
the paper, and so on; similarities: `--config.data.transform.name=similarity --config.transform.name=similarity`.

The paper's protocol, a plain VAE trained on upright digits that meets affine ones in the test alone:

    python train.py --config=configs/affine_mnist.py --config.data.pose=upright --config.data.test_pose=fixed \
        --config.train.search.enabled=False --config.train.epochs=60 --workdir=runs/affine_upright
"""

from ml_collections import ConfigDict

from avae.config import default


def get_config() -> ConfigDict:
    """The main job with a larger family, for half as many epochs: each step searches twice as long."""
    config = default()
    for transform in (config.data.transform, config.transform):
        transform.name = "affine"
        transform.max_shear = 0.5
    config.train.epochs = 15
    config.evaluation.update(baseline_epochs=30, n_exhaustive=128, n_angles=4096, n_curve=64, curve_step=30)
    return config
