"""Evaluates a trained run: prints the numbers, writes results.json, figures and report.html into its folder.

python eval.py --workdir=runs/rot_mnist [--baseline=runs/vae_mnist] [--best] [--data=PATH] [--distributed]
python eval.py --workdir=runs/rot_mnist --history     # only figures/history.png: orientations at each checkpoint kept
python eval.py --workdir=runs/own --poses=poses       # only the poses of all images of its data (docs/poses.md)
"""

import sys

try:
    from absl import flags

    from avae import command
    from avae.poses.folder import align_source
    from avae.run import draw_history, report
    from avae.runtime.files import expanded
    from avae.runtime.mistake import Mistake
    from avae.runtime.progress import say
    from avae.training.run_folder import load_experiment
except KeyboardInterrupt:  # the libraries take seconds to load
    print("stopped by SIGINT", file=sys.stderr)
    sys.exit(128 + 2)


def main(argv: list[str]) -> None:
    """Flags to functions."""
    values = flags.FlagValues()  # of this call alone: a notebook may call again
    workdir = flags.DEFINE_string("workdir", None, "Folder of the run.", flag_values=values)
    baseline = flags.DEFINE_string(
        "baseline", None, "Folder of a plain VAE to compare with; default: WORKDIR/baseline.", flag_values=values
    )
    best = flags.DEFINE_bool(
        "best", False, "Take the checkpoint with the lowest training loss, not the newest.", flag_values=values
    )
    data = flags.DEFINE_string("data", None, "Where the data of the run are now, if they moved.", flag_values=values)
    only_history = flags.DEFINE_bool(
        "history", False, "Only draw the orientations of each class at the checkpoints kept.", flag_values=values
    )
    poses = flags.DEFINE_string(
        "poses", None, "Folder into which the poses of all images are written; see docs/poses.md.", flag_values=values
    )
    join = command.define_hosts(values)
    with command.sentences():
        command.parse(values, argv)
        if workdir.value is None:
            raise Mistake("--workdir is missing; try --workdir=runs/rot_mnist")
        join()
        if only_history.value:
            draw_history(workdir.value, data=data.value)
        elif poses.value:
            run, where = expanded(workdir.value), data.value or load_experiment(expanded(workdir.value)).data.name
            say(f"poses: {align_source(run, where, expanded(poses.value), best=best.value)}")
        else:
            report(workdir.value, baseline.value, best=best.value, data=data.value)


if __name__ == "__main__":
    command.script(main)
