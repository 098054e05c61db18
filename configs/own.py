"""Your own images, with the settings that `avae train` would choose, for people who prefer files to flags.

python train.py --config=configs/own.py:stack.mrcs --workdir=runs/own
avae align runs/own stack.mrcs --out poses

Copy this file, and set below what should differ.
"""

from ml_collections import ConfigDict

from avae import choose
from avae.runtime.mistake import Mistake


def get_config(data: str = "") -> ConfigDict:
    """The settings chosen from `data`, the name of a file or a folder."""
    if not data:
        raise Mistake("--config: expected the data behind a colon, as in --config=configs/own.py:stack.mrcs")
    config, _ = choose.chosen(choose.look(data))
    # config.model.latent = 16
    return config
