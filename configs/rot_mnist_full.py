"""The paper's size: all of MNIST, 60,000 digits, each at a fixed random orientation, and the paper's convolutional VAE.

    python train.py --config=configs/rot_mnist_full.py
    python train.py --config=configs/rot_mnist_full.py --config.data.pose=fresh    # a new orientation at every draw

The set comes from TensorFlow Datasets as `tfds:mnist`. Where it is not prepared and TensorFlow is not installed, this
prepares it (from downloads, or offline from the files: see docs/data.md):

    python tools/prepare_tfds.py mnist

Meant for an accelerator. Its run time there is not yet measured, and no loss is claimed for it. On a CPU it takes days:
a step took 16 to 28 s on one core that other work shared (AMD EPYC, 2026-11-22), and there are 14,062 of them.
"""

from ml_collections import ConfigDict

from avae.config import default


def get_config() -> ConfigDict:
    """The main job with five times the images and convolutions."""
    config = default()
    config.data.update(name="tfds:mnist", n_train=60_000, n_test=10_000)
    config.model.update(name="conv")
    config.train.update(checkpoint_every=2_000)
    return config
