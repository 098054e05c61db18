"""Trains an AVAE, trains a plain VAE of the same size beside it, and writes a report that compares them.

    python train.py --config=configs/rot_mnist.py [--workdir=runs/rot_mnist] [--config.train.epochs=10 ...]

Started again with the same workdir it goes on where it was stopped, and ends with the same weights. It uses all devices
there are; on several hosts it is started on each of them with --distributed (docs/scale.md).
"""

import pathlib
import sys

try:
    from absl import flags
    from ml_collections import config_flags

    from avae import command
    from avae.run import run
    from avae.runtime.mistake import Mistake
except KeyboardInterrupt:  # the libraries take seconds to load
    print("stopped by SIGINT", file=sys.stderr)
    sys.exit(128 + 2)


def main(argv: list[str]) -> None:
    """Flags to functions."""
    values = flags.FlagValues()  # of this call alone: a notebook may call again
    config = config_flags.DEFINE_config_file(
        "config", help_string="An experiment of configs/.", lock_config=True, flag_values=values, sys_argv=argv
    )
    workdir = flags.DEFINE_string(
        "workdir", None, "Folder of the run; default: runs/<name of the config>.", flag_values=values
    )
    join = command.define_hosts(values)
    with command.sentences():
        command.parse(values, argv)
        if config.value is None:
            raise Mistake("--config is missing; try --config=configs/rot_mnist.py")
        file = pathlib.Path(config_flags.get_config_filename(values["config"]).partition(":")[0])
        if not file.is_file():
            raise Mistake(f"--config: expected a file such as configs/rot_mnist.py; nothing is at {file}")
        join()
        run(config.value, workdir.value or pathlib.Path("runs") / file.stem)


if __name__ == "__main__":
    command.script(main)
