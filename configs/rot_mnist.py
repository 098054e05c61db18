"""The main job: an AVAE on 12,000 digits at fixed random orientations, searched in training and at inference.

python train.py --config=configs/rot_mnist.py
"""

from ml_collections import ConfigDict

from avae.config import default


def get_config() -> ConfigDict:
    """The defaults are this experiment."""
    return default()
