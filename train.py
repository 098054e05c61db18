"""Trains an AVAE, trains a plain VAE of the same size beside it, and writes a report that compares them.

    python train.py --config=configs/rot_mnist.py [--workdir=runs/rot_mnist] [--config.train.epochs=10 ...]

Started again with the same workdir it goes on where it was stopped, and ends with the same weights. It uses all devices
there are; on several hosts it is started on each of them with --distributed (docs/scale.md).
"""

import pathlib
import re
import sys

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

import eval as evaluation
from avae.config import experiment
from avae.model import Params
from avae.training.checkpoint import claim
from avae.training.loop import fit
from avae.training.signals import Interrupted

CONFIG = config_flags.DEFINE_config_file("config", help_string="An experiment of configs/.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; default: runs/<name of the config>.")
evaluation.define_hosts()


def run(config: ConfigDict, workdir: str | pathlib.Path) -> Params:
    """Trains what `config` describes and its plain baseline, evaluates both and writes the report."""
    workdir = pathlib.Path(workdir)
    params = fit_config(config, workdir)
    if config.evaluation.baseline_epochs and config.train.search.enabled:
        fit_config(plain_vae(config), workdir / "baseline")
    evaluation.run(workdir)
    return params


def fit_config(config: ConfigDict, workdir: pathlib.Path) -> Params:
    """One training run in the folder that belongs to its config."""
    described = experiment(config)
    claim(workdir, config)
    return fit(described, workdir)


def plain_vae(config: ConfigDict) -> ConfigDict:
    """The same without search: the plain VAE of the same size on the same images."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.train.search.enabled = False
        config.train.search_every = 1
        config.pose_network.enabled = False
        config.train.epochs = config.evaluation.baseline_epochs
    return config


def main(argv: list[str]) -> None:
    """Flags to functions; a mistake of the user's ends in a sentence."""
    logging.set_verbosity(logging.WARNING)  # libraries tell of every file they save
    if len(argv) > 1:
        sys.exit(f"error: unexpected argument {argv[1]!r}; settings are given as --config.section.name=value")
    if CONFIG.value is None:
        sys.exit("error: --config is missing; try --config=configs/rot_mnist.py")
    name = pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    try:
        evaluation.join_hosts()
        run(CONFIG.value, WORKDIR.value or pathlib.Path("runs") / name)
    except (ValueError, FloatingPointError, OSError) as error:
        sys.exit(f"error: {error}")
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(128 + stop.signum)


def parse(argv: list[str]) -> list[str]:
    """The flags, or a sentence about the one that is wrong."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        sys.exit(f"error: {error}")
    except (AttributeError, KeyError) as error:  # an override of a setting that is not there
        names = re.search(r'mean "(.*?)" instead of "(.*?)"', str(error))
        sys.exit("error: no such setting: " + (f"{names[2]}; did you mean {names[1]}?" if names else str(error)))


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
