"""Evaluates a trained run: prints the numbers, writes results.json, figures and report.html into its folder.

python eval.py --workdir=runs/rot_mnist [--baseline=runs/vae_mnist] [--best] [--distributed]
python eval.py --workdir=runs/rot_mnist --history     # only figures/history.png: orientations at each checkpoint kept
"""

import pathlib
import sys

import jax
import jax.numpy as jnp
from absl import app, flags, logging

from avae.config import Experiment
from avae.data.dataset import load as load_data
from avae.evaluation.evaluate import evaluate
from avae.evaluation.history import history
from avae.networks.likelihoods import PaperLoss
from avae.report import page as report
from avae.report.figures import orientation_strip, save
from avae.report.tables import as_text
from avae.runtime import devices
from avae.runtime.mistake import Mistake
from avae.runtime.progress import say
from avae.training.checkpoint import load, load_experiment


def run(workdir: str | pathlib.Path, baseline: str | pathlib.Path | None = None, *, best: bool = False) -> pathlib.Path:
    """Evaluates the run in `workdir`, beside the plain VAE in `baseline` (default: workdir/baseline, if it is there).

    Takes the newest weights of the run, or those of its `best` checkpoint. All processes evaluate, the first writes.

    Returns:
      The path of the report.

    Raises:
      Mistake: if one of the folders does not hold a run.
    """
    workdir = pathlib.Path(workdir)
    if baseline is None and (workdir / "baseline").is_dir():
        baseline = workdir / "baseline"
    params, experiment = load(workdir, best=best), load_experiment(workdir)
    plain, remarks = None, []
    if baseline is not None:
        baseline = pathlib.Path(baseline)
        plain = load(baseline)
        remarks = differences(experiment, load_experiment(baseline))
    if isinstance(loss := experiment.model.likelihood, PaperLoss):
        floor = float(jnp.mean(jax.vmap(loss.floor)(load_data(experiment.data).test.images)))
        remarks.append(
            f"J is the published code's squared error plus KL, not nats: on these images at least {floor:.1f}."
        )
    results = evaluate(params, experiment.data, experiment.evaluation, baseline=plain)
    if devices.first_process():
        try:
            path = report.write(workdir, results, experiment, baseline_dir=baseline, remarks=remarks)
        finally:  # on a full disk the numbers are at least seen
            say("\n".join([as_text(results.numbers), "", *remarks]))
        say(f"report: {path}")
    devices.wait_for_all("report")
    return workdir / "report.html"


def draw_history(workdir: str | pathlib.Path) -> pathlib.Path:
    """Draws the orientations of each class at the checkpoints that a run kept into its figures/history.png.

    Raises:
      Mistake: if the run has no labels, poses that are not planar, or fewer than two checkpoints.
    """
    path = pathlib.Path(workdir) / "figures" / "history.png"
    figure = orientation_strip(*history(workdir))
    path.parent.mkdir(exist_ok=True)
    save(figure, path)
    say(f"history: {path}")
    return path


def define_hosts() -> None:
    """The flags of a run on many hosts, of both scripts."""
    flags.DEFINE_bool("distributed", False, "This is one of several processes; see docs/scale.md.")
    flags.DEFINE_string("coordinator", None, "host:port of process 0, where the cluster does not say.")
    flags.DEFINE_integer("num_processes", None, "How many processes there are, where the cluster does not say.")
    flags.DEFINE_integer("process_id", None, "Which of them this is, from 0, where the cluster does not say.")


def join_hosts() -> None:
    """Joins the other processes, if the flags say that there are any.

    Raises:
      Mistake: if the flags contradict each other, or the processes do not find each other.
    """
    given = {name: flags.FLAGS[name].value for name in ("coordinator", "num_processes", "process_id")}
    if flags.FLAGS.distributed:
        devices.join(**given)
    elif surplus := [f"--{name}" for name, value in given.items() if value is not None]:
        raise Mistake(f"{', '.join(surplus)}: expected --distributed beside it")


def differences(run: Experiment, baseline: Experiment) -> list[str]:
    """What a reader must know before comparing the two runs, in sentences."""
    remarks = []
    if run.train.search is None:
        remarks.append("The run itself was trained without search: it is a plain VAE under the name of AVAE.")
    if baseline.train.search is not None:
        remarks.append("The baseline was trained with search: it is an AVAE under the name of plain VAE.")
    if run.data != baseline.data:
        remarks.append(f"The two were trained on different data: {run.data}; baseline: {baseline.data}.")
    if run.model.likelihood != baseline.model.likelihood:
        remarks.append("The two have different likelihoods: their losses do not compare.")
    return remarks


def main(argv: list[str]) -> None:
    """Flags to functions; a mistake of the user's ends in a sentence."""
    logging.set_verbosity(logging.WARNING)  # libraries tell of every file they save
    if len(argv) > 1:
        sys.exit(f"error: unexpected argument {argv[1]!r}; usage: python eval.py --workdir=FOLDER [--baseline=FOLDER]")
    if flags.FLAGS.workdir is None:
        sys.exit("error: --workdir is missing; try --workdir=runs/rot_mnist")
    try:
        join_hosts()
        if flags.FLAGS.history:
            draw_history(flags.FLAGS.workdir)
            return
        run(flags.FLAGS.workdir, flags.FLAGS.baseline, best=flags.FLAGS.best)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":  # flags are global: train.py, which calls `run`, has its own
    flags.DEFINE_string("workdir", None, "Folder of the run.")
    flags.DEFINE_string("baseline", None, "Folder of a plain VAE to compare with; default: WORKDIR/baseline.")
    flags.DEFINE_bool("best", False, "Take the checkpoint with the lowest training loss, not the newest.")
    flags.DEFINE_bool("history", False, "Only draw the orientations of each class at the checkpoints that were kept.")
    define_hosts()
    app.run(main)
