"""Clothes at random orientations: the main job on Fashion-MNIST, whose grey values and fine texture digits do not have.

    python train.py --config=configs/rot_fashion.py
    python train.py --config=configs/rot_fashion.py --config.data.n_train=60000    # all of it

The set comes from TensorFlow Datasets as `tfds:fashion_mnist`. Where it is not prepared and TensorFlow is not
installed, this prepares it (from downloads, or offline from the files: see docs/data.md):

    python tools/prepare_tfds.py fashion_mnist

The work is that of the main job, which takes about 9 minutes on 2 CPU cores. Its run time on an accelerator is not yet
measured; docs/results.md has a shorter run. J on grey pixels is a cross-entropy and compares only with itself.
"""

from ml_collections import ConfigDict

from avae.config import default


def get_config() -> ConfigDict:
    """The main job with 12,000 + 2,000 pieces of clothing."""
    config = default()
    config.data.update(name="tfds:fashion_mnist", n_train=12_000, n_test=2_000)
    return config
