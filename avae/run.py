"""One experiment, from its config to its report: what `train.py` and `eval.py` call."""

import os
import pathlib

from ml_collections import ConfigDict

from avae.config import experiment
from avae.evaluation.evaluate import evaluate
from avae.evaluation.history import history
from avae.experiment import Experiment
from avae.model import Params
from avae.report import page
from avae.report.figures import orientation_strip, save
from avae.report.tables import as_text
from avae.runtime import devices
from avae.runtime.files import expanded
from avae.runtime.mistake import Mistake
from avae.runtime.nested import plain
from avae.runtime.progress import say
from avae.training import packed, run_folder
from avae.training.checkpoint import load
from avae.training.loop import fit


def run(config: ConfigDict, workdir: str | os.PathLike[str]) -> Params:
    """Trains what `config` describes and its plain baseline and writes the report of both; returns the `Params`.

    Started again it goes on where it was stopped.

    Raises:
      Mistake: if the config is wrong or does not go with the data, or `workdir` holds a run of another config, or
        another job trains in it. What can be known beforehand is raised before anything is trained.
    """
    workdir, baseline, described = expanded(workdir), None, experiment(config)
    run_folder.check(workdir, config)
    if described.evaluation.baseline_epochs and described.train.search:
        baseline = plain_vae(config)
        _check_baseline(workdir / "baseline", baseline)
    params = fit_config(config, workdir)
    if baseline is not None:
        fit_config(baseline, workdir / "baseline")
    report(workdir)
    return params


def fit_config(config: ConfigDict, workdir: str | os.PathLike[str]) -> Params:
    """The `Params` that `config` describes, trained in the folder `workdir`; see `avae.training.loop.fit`."""
    workdir, described = expanded(workdir), experiment(config)
    run_folder.check(workdir, config)
    return fit(described, workdir, config)


def plain_vae(config: ConfigDict) -> ConfigDict:
    """The same without search: the plain VAE of the same size on the same images."""
    epochs, config = plain(config)["evaluation"]["baseline_epochs"], config.copy_and_resolve_references()
    with config.unlocked():
        changes = {"train.search.enabled": False, "train.search_every": 1, "pose_network.enabled": False}
        config.update_from_flattened_dict(changes | {"train.epochs": epochs})
    return config


def report(
    workdir: str | os.PathLike[str],
    baseline: str | os.PathLike[str] | None = None,
    *,
    best: bool = False,
    data: str | os.PathLike[str] | None = None,
) -> pathlib.Path:
    """Evaluates the run in `workdir` and writes its report. All processes evaluate, the first writes.

    Args:
      workdir: the folder of the run.
      baseline: the folder of a plain VAE to compare with; None for workdir/baseline, if it is there.
      best: take the checkpoint with the lowest training loss, not the newest.
      data: where the data are now, if they were moved since the training.

    Returns:
      The path of the report.

    Raises:
      Mistake: if one of the folders does not hold a run, or the data are not those that it was trained on.
    """
    if packed.is_shipped(workdir):
        raise Mistake(f"expected the folder of a run to write to, got {workdir}, weights that the package has")
    workdir = expanded(workdir)
    if baseline is None and (workdir / "baseline").is_dir():
        baseline = workdir / "baseline"
    params, described = load(workdir, best=best, as_read=True), run_folder.load_experiment(workdir, data)
    run_folder.check_data(workdir, described.data)
    plain_params, remarks = None, []
    if baseline is not None:
        baseline = expanded(baseline)
        plain_params = load(baseline, as_read=True)
        remarks = differences(run_folder.load_experiment(workdir), run_folder.load_experiment(baseline))
    results = evaluate(params, described.data, described.evaluation, baseline=plain_params)
    if (floor := results.numbers["floor"]) is not None:
        remarks.append(
            f"J is the published code's squared error plus KL, not nats: on these images at least {floor:.1f}."
        )
    if devices.first_process():
        try:
            path = page.write(workdir, results, described, baseline_dir=baseline, remarks=remarks)
        finally:  # on a full disk the numbers are at least seen
            say("\n".join([as_text(results.numbers), "", *remarks]))
        say(f"report: {path}")
    devices.wait_for_all("report")
    return workdir / "report.html"


def draw_history(workdir: str | os.PathLike[str], *, data: str | None = None) -> pathlib.Path:
    """Draws the orientations of each class at the checkpoints that a run kept into its figures/history.png.

    Raises:
      Mistake: if the run has no labels, poses that are not planar, or fewer than two checkpoints, or the data are not
        those that it was trained on.
    """
    workdir = expanded(workdir)
    path = workdir / "figures" / "history.png"
    run_folder.check_data(workdir, run_folder.load_experiment(workdir, data).data)
    figure = orientation_strip(*history(workdir, data_name=data))
    path.parent.mkdir(exist_ok=True)
    save(figure, path)
    say(f"history: {path}")
    return path


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


def _check_baseline(workdir: pathlib.Path, config: ConfigDict) -> None:
    """The mistakes that would end the training of the baseline, hours later."""
    try:
        experiment(config)
        run_folder.check(workdir, config)
    except Mistake as error:
        raise Mistake(f"the plain VAE, whose train.epochs is evaluation.baseline_epochs: {error}") from None
