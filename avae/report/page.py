"""Writes what was measured: results.json, figures, and one self-contained report.html.

workdir/results.json      every number
workdir/figures/*.png     the figures
workdir/report.html       both, for people; needs no other file and no network
"""

import base64
import dataclasses
import datetime
import html
import importlib.metadata
import importlib.resources
import io
import json
import math
import os
import pathlib
import platform
import string
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from avae.config import Experiment, flatten
from avae.evaluation.evaluate import NAMES, Results
from avae.report import figures, pictures
from avae.report.tables import UNLABELLED, as_html, cell_html, tables, tiles
from avae.training.watch import read_metrics

ALT = {
    "grid": "Test examples, their canonical form and their reconstructions",
    "slices": "Central slices of test volumes, their canonical form and their reconstructions",
    "loss_curve": "Loss against the rotation of the input",
    "orientation": "Histograms of the canonical orientation of each class",
    "training": "Training loss against steps",
}
NO_CLUSTERS = ' Not measured: it needs scikit-learn (pip install "avae[cluster]") and more than one class.'

SLICES = "The three central slices of the first volumes: across z, y and x; in z-y slices z runs to the right."

# The section of the bound; left out where there is none.
BOUND = """<p>Lower bound on log&nbsp;p(x), all that is unknown integrated out by $n_samples draws for each of the first
$n_images test $examples: with poses from a mixture around the modes of J and the prior (B4 in docs/theory.md), and
the same bound of the model without poses (IWAE). Here the pose is paid for: the comparison of like with like;
few effective draws mean that a bound is loose.</p>
$table"""

# What the template calls things, by the dimension of the data.
WORDS = {
    2: {
        "example": "image",
        "examples": "images",
        "pixels": "pixels",
        "about": "",
        "views": "",
        "modulo": "; modulo 180° half a turn counts as nothing",
        "orientation_caption": (
            "Angle at which the objects of each class stand in the canonical frame, counter-clockwise from upright; "
            "areas are proportional to counts. One narrow petal is one encoded orientation. The arrow is the mean "
            "direction; its length, as a fraction of the radius, is the resultant R: 1 if all agree, by chance about "
            "0.89 / √n in a class of n."
        ),
    },
    3: {
        "example": "volume",
        "examples": "volumes",
        "pixels": "voxels",
        "about": "in the x-y plane, about the z axis,",
        "views": (
            " Volumes are seen from obliquely above, x to the right, y down and z towards the viewer; a pale tick "
            "points away from the viewer."
        ),
        "modulo": "",
        "orientation_caption": (
            "Angle between the orientation at which an object stands in the canonical frame and the most central one "
            "of its class. All near 0° is one encoded orientation; dashed, what rotations drawn at random would give. "
            "R is the resultant: 1 if all agree, by chance about 0.76 / √n in a class of n."
        ),
    },
}


def write(
    workdir: str | pathlib.Path,
    results: Results,
    experiment: Experiment,
    *,
    baseline_dir: pathlib.Path | None = None,
    remarks: Sequence[str] = (),
) -> pathlib.Path:
    """Writes results.json, the figures and report.html into `workdir`.

    Args:
      workdir: an existing folder; the training curve is drawn from its metrics.jsonl where there is one.
      results: from `avae.evaluation.evaluate`.
      experiment: what was run.
      baseline_dir: folder of the plain VAE, for its training curve.
      remarks: sentences that a reader must know before the numbers.

    Returns:
      The path of report.html.
    """
    workdir = pathlib.Path(workdir)
    numbers = _finite(results.numbers)
    extra = {"remarks": list(remarks), "environment": environment(), "config": describe(experiment)}
    pngs = {name: _png(figure) for name, figure in _figures(results, workdir, baseline_dir).items()}
    (workdir / "figures").mkdir(parents=True, exist_ok=True)
    for name, png in pngs.items():
        (workdir / "figures" / f"{name}.png").write_bytes(png)
    (workdir / "results.json").write_text(json.dumps(numbers | extra, indent=2, allow_nan=False) + "\n")
    path = workdir / "report.html"
    path.write_text(_page(workdir.resolve().name, numbers, extra, pngs, experiment), encoding="utf-8")
    return path


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


def _figures(results: Results, workdir: pathlib.Path, baseline_dir: pathlib.Path | None) -> dict[str, Figure]:
    degrees = np.array(results.numbers["curve"]["angles"])
    classes = results.numbers["orientation"]["classes"] or {0: {"name": "all, without labels"}}
    names = {int(label): entry["name"] for label, entry in classes.items()}
    drawn = {
        "grid": pictures.grid(*results.pictures),
        "loss_curve": figures.loss_curve(degrees, results.curves),
        "orientation": figures.orientation_histograms(results.rotations, results.labels, names),
    }
    if results.pictures.images.ndim == 5:
        drawn["slices"] = pictures.slices(*results.pictures)
    folders = {"avae": workdir} | ({} if baseline_dir is None else {"plain_vae": baseline_dir})
    runs = {NAMES[name]: [row for row in read_metrics(folder) if "loss" in row] for name, folder in folders.items()}
    runs = {name: rows for name, rows in runs.items() if rows}
    return drawn | ({"training": figures.training_curve(runs)} if runs else {})


def _page(
    name: str, numbers: dict[str, Any], extra: dict[str, Any], pngs: dict[str, bytes], experiment: Experiment
) -> str:
    """report.html: the words are in the template, the numbers come from results.json by way of `avae.report.tables`."""
    model, bad = experiment.model, numbers["search"]["not_finite"]
    parts = (type(part).__name__ for part in (model.networks, model.likelihood, model.transform))
    training = f"<h2>Training</h2><figure>{_image('training', pngs['training'])}</figure>" if "training" in pngs else ""
    words = WORDS[numbers["orientation"]["dimension"]]
    n_classes = len(numbers["orientation"]["classes"])
    shown = dict.fromkeys(("errors", "classes", "latents"), "")  # left out without labels
    shown |= {name: as_html(numbers, table) for name, table in tables(numbers).items()}
    slices = (
        f"<figure>{_image('slices', pngs['slices'])}<figcaption>{SLICES}</figcaption></figure>"
        if "slices" in pngs
        else ""
    )
    template = (importlib.resources.files("avae.report") / "page.html").read_text(encoding="utf-8")
    bound = ""
    if numbers.get("bound"):
        counts = {name: f"{numbers['bound'][name]:,}" for name in ("n_images", "n_samples")}
        bound = string.Template(BOUND).substitute(counts, table=shown.pop("bound"), **words)
    return string.Template(template).substitute(
        title=f"Affine VAE: {html.escape(name)}",
        subtitle=html.escape(" · ".join(parts)),
        remarks="".join(f'<p class="remark">{html.escape(remark)}</p>' for remark in extra["remarks"]),
        tiles=_tiles(numbers),
        n_test=f"{numbers['n_test']:,}",
        draws=numbers["draws"],
        n_exhaustive=f"{numbers['search']['n_images']:,}",
        n_angles=f"{numbers['search']['n_angles']:,}",
        n_curve=f"{numbers['curve']['n_images']:,}",
        n_speed=f"{numbers['speed']['batch']:,}",
        not_finite=f" <strong>{bad} of the losses with search are not finite.</strong>" if bad else "",
        no_clusters=_no_clusters(numbers),
        clusters=f"{n_classes} clusters" if n_classes else "one cluster for each class",
        unlabelled="" if n_classes else f"{UNLABELLED}.",
        slices=slices,
        training=training,
        environment=_settings(extra["environment"]),
        config=_settings(flatten(extra["config"])),
        **{name: _image(name, png) for name, png in pngs.items() if name not in ("training", "slices")},
        **words,
        bound=bound,
        **{f"table_{name}": text for name, text in shown.items()},
    )


def _no_clusters(numbers: Mapping[str, Any]) -> str:
    """Why there is no accuracy of clusters; nothing if there is one."""
    if numbers["clusters"]["accuracy"] is not None:
        return ""
    return NO_CLUSTERS if numbers["orientation"]["classes"] else f" {UNLABELLED.capitalize()}."


def _tiles(numbers: dict[str, Any]) -> str:
    """The few numbers at the top; the comparison with the plain VAE is the headline, where there is one."""
    parts = []
    for i, (label, cell, unit) in enumerate(tiles(numbers)):
        kind = "tile first" if i == 0 and numbers["gain"] else "tile"
        number = f"<b>{cell_html(numbers, cell)} <small>{unit}</small></b>"
        parts.append(f'<div class="{kind}">{number}<span class="name">{html.escape(label)}</span></div>')
    return "\n".join(parts)


def _image(name: str, png: bytes) -> str:
    return f'<img alt="{ALT[name]}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _settings(values: Mapping[str, Any]) -> str:
    rows = (
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(value))}</td></tr>" for name, value in values.items()
    )
    return "".join(rows)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


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
