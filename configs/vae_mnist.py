"""The baseline: a plain VAE of the same size on the same rotated digits, trained without any search.

python train.py --config=configs/vae_mnist.py                                          # rotated digits
python train.py --config=configs/vae_mnist.py --config.data.pose=upright --workdir=runs/vae_upright

About a minute of training on 2 CPU cores. Expected test loss J without search: 130.2 nats on rotated digits (three
seeds), 103.1 on upright ones (2026-11-22).
"""

from ml_collections import ConfigDict

from avae.config import default


def get_config() -> ConfigDict:
    """The main job without search, trained for longer: its steps are cheap."""
    config = default()
    config.train.search.enabled = False
    config.train.epochs = config.evaluation.baseline_epochs
    return config
