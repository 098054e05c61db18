"""Writes what was measured: results.json, figures, and one self-contained report.html.

workdir/results.json      every number
workdir/figures/*.png     the figures
workdir/report.html       both, for people; needs no other file and no network
"""

import base64
import dataclasses
import datetime
import functools
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jinja2
import numpy as np
from matplotlib.figure import Figure

from avae.evaluation.averages import averages
from avae.evaluation.evaluate import Results
from avae.evaluation.examples import Points
from avae.experiment import Experiment
from avae.inference.health import Health, warnings
from avae.report import figures, latent_map, pictures, pose_figures
from avae.report.tables import NAMES, UNLABELLED, caption, labelled, tables, tiles
from avae.runtime.files import write_whole
from avae.runtime.nested import flatten
from avae.runtime.progress import say
from avae.settings import plan
from avae.training.watch import read_metrics
from avae.transforms import Mirrored

Drawn = TypeVar("Drawn")


def write(
    workdir: str | pathlib.Path,
    results: Results,
    experiment: Experiment,
    *,
    baseline_dir: pathlib.Path | None = None,
    remarks: Sequence[str] = (),
) -> pathlib.Path:
    """Writes results.json, then the figures, then report.html into `workdir`, each whole or not at all.

    A figure that cannot be drawn is named on standard error and in the report.

    Args:
      workdir: an existing folder; the training curve is drawn from its metrics.jsonl where there is one.
      results: from `avae.evaluation.evaluate`.
      experiment: what was run.
      baseline_dir: folder of the plain VAE, for its training curve.
      remarks: sentences that a reader must know before the numbers.

    Returns:
      The path of report.html.

    Raises:
      OSError: if results.json or report.html cannot be written.
    """
    workdir = pathlib.Path(workdir)
    numbers = _finite(results.numbers)
    extra = {"remarks": list(remarks), "environment": environment(), "config": describe(experiment)}
    text = json.dumps(numbers | extra, indent=2, allow_nan=False) + "\n"
    write_whole(workdir / "results.json", text.encode())
    pngs, failed = _draw(_figures(results, numbers, workdir, baseline_dir), workdir / "figures")
    chart = _drawn("the map of the latents", "map", lambda: _map(results, numbers), failed)
    path, model = workdir / "report.html", experiment.model
    inner = [model.transform.family] if isinstance(model.transform, Mirrored) else []
    page = _template().render(
        name=caption(workdir.resolve().name),
        parts=[type(part).__name__ for part in (model.networks, model.likelihood, model.transform, *inner)],
        numbers=numbers,
        tables=tables(numbers),
        tiles=tiles(numbers),
        labelled=labelled(numbers),
        unlabelled=UNLABELLED,
        channels=results.pictures.images.shape[-1],
        circle=pose_figures.is_circle(model.transform),
        pngs={name: base64.b64encode(png).decode() for name, png in pngs.items()},
        failed=failed,
        map=chart,
        remarks=extra["remarks"],
        warnings=[f"{text[0].upper()}{text[1:]}" for text in _unhealthy(numbers, model)],
        environment=extra["environment"],
        config=flatten(extra["config"]),
    )
    write_whole(path, page.encode("utf-8", "replace"))
    return path


def _map(results: Results, numbers: Mapping[str, Any]) -> latent_map.LatentMap | None:
    """The map of the latents, where there are any."""
    names = {int(label): entry["name"] for label, entry in numbers["orientation"]["classes"].items()}
    return None if results.points is None else latent_map.latent_map(*results.points, names)


def _unhealthy(numbers: dict[str, Any], model: Any) -> list[str]:
    """What `avae.inference.health` has to say of a model with poses."""
    if not (numbers.get("health") and model.image_shape):
        return []
    return warnings(Health(**numbers["health"]), min(model.image_shape[:-1]), plan(model).search)


def environment() -> dict[str, Any]:
    """What the numbers depend on besides the config: machine, versions, date, and the commit where there is one."""
    device = jax.devices()[0]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": f"{_processor()}, {_cores()} cores, {platform.system()} {platform.machine()}",
        "device": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("jax", "flax")},
        "commit": _commit(),
    }


def describe(value: Any) -> Any:
    """Nested frozen dataclasses as plain dicts, with the name of each class, for JSON."""
    if dataclasses.is_dataclass(value):
        fields = {field.name: describe(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"type": type(value).__name__} | fields
    return value if isinstance(value, int | float | str | None) else [describe(item) for item in value]


def _figures(
    results: Results, numbers: Mapping[str, Any], workdir: pathlib.Path, baseline_dir: pathlib.Path | None
) -> dict[str, Callable[[], Figure]]:
    """How each figure is drawn, by its name."""
    classes = numbers["orientation"]["classes"] or {0: {"name": "all, without labels"}}
    names = {int(label): entry["name"] for label, entry in classes.items()}
    drawings: dict[str, Callable[[], Figure]] = {
        "grid": lambda: pictures.grid(*results.pictures),
        "loss_curve": lambda: figures.loss_curve(numbers["curve"]),
        "orientation": lambda: figures.orientation_histograms(results.rotations, results.labels, names),
    }
    if results.pictures.images.ndim == 5:
        drawings["slices"] = lambda: pictures.slices(*results.pictures)
    if results.points is not None and np.isfinite(results.points.latent).all(axis=1).any():
        drawings["averages"] = functools.partial(_averages, results.points, names if labelled(numbers) else {})
    if results.strips:
        drawings["strips"] = functools.partial(pictures.strips, *results.strips)
    if uncertain := results.uncertain:
        drawings["posterior"] = lambda: pose_figures.posterior_figure(uncertain.images, uncertain.posterior)
    folders = {"avae": workdir} | ({} if baseline_dir is None else {"plain_vae": baseline_dir})
    runs = {NAMES[name]: [row for row in read_metrics(folder) if "loss" in row] for name, folder in folders.items()}
    runs = {name: rows for name, rows in runs.items() if rows}
    return drawings | ({"training": lambda: figures.training_curve(runs)} if runs else {})


def _averages(points: Points, names: Mapping[int, str]) -> Figure:
    """The means of the ten largest classes, or of the clusters of the latents where there are no classes."""
    finite = np.asarray(np.isfinite(points.latent).all(axis=1))
    groups = averages(points.images, points.canonical, finite, points.latent, points.labels.tolist() if names else None)
    largest = np.sort(np.argsort(-groups.count, kind="stable")[:10])
    titles = [caption(str(names.get(groups.names[k], groups.names[k])), 10) for k in largest]
    return pictures.averages(groups.raw[largest], groups.aligned[largest], titles)


def _draw(
    drawings: Mapping[str, Callable[[], Figure]], folder: pathlib.Path
) -> tuple[dict[str, bytes], dict[str, str]]:
    """Draws the figures into `folder`: those that were drawn, as PNG files, and what became of the others."""
    pngs: dict[str, bytes] = {}
    failed: dict[str, str] = {}

    def png(draw: Callable[[], Figure], path: pathlib.Path) -> bytes:
        folder.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)  # an older one is not of these numbers
        write_whole(path, drawn := figures.png(draw()))
        return drawn

    for name, draw in drawings.items():
        path = folder / f"{name}.png"
        if drawn := _drawn(str(path), name, functools.partial(png, draw, path), failed):
            pngs[name] = drawn
    return pngs, failed


def _drawn(what: str, name: str, draw: Callable[[], Drawn], failed: dict[str, str]) -> Drawn | None:
    """What `draw` makes; where it raises, None, and the reason is on standard error and in `failed`."""
    try:
        return draw()
    except Exception as error:  # whatever it is, the numbers are not to be lost for a picture
        failed[name] = f"{type(error).__name__}: {error}"
        say(f"{what} could not be drawn: {failed[name]}", sys.stderr)
        return None


def _template() -> jinja2.Template:
    loader = jinja2.PackageLoader("avae", "report")
    page = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page.filters["count"] = "{:,}".format
    return page.get_template("page.html")


def _finite(value: Any) -> Any:
    """JSON knows no NaN and no infinity: null."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _processor() -> str:
    """The CPU's name: Linux tells it in a file only."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown processor"


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _commit() -> str | None:
    """The commit of this source, marked "-dirty" where files differ from it; None for an installed copy."""
    folder = pathlib.Path(__file__).parent
    try:
        for command in (("ls-files", "--error-unmatch", "page.py"), ("describe", "--always", "--dirty")):
            done = subprocess.run(("git", *command), cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):  # no git, or not a repository of this file
        return None
    return done.stdout.strip()
