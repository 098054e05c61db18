"""The tables of the report, as text: from the content of results.json alone, and the same on the terminal and the page.

So the terminal, report.html and results.json cannot disagree.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

NAMES = {"avae": "AVAE", "plain_vae": "plain VAE"}
WAYS = {"search": "with search", "no_search": "without search"}
MISSING = "-"
UNLABELLED = "not measured, for the data have no labels"
MAX_CLASSES = 20


class Table(NamedTuple):
    """`title` heads the names of the rows, `header` their cells."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def tables(numbers: Mapping[str, Any]) -> dict[str, Table]:
    """The tables of the report, by section, for the models that were measured.

    Args:
      numbers: `avae.evaluation.evaluate.Results.numbers`, or results.json read back.

    Returns:
      Tables by section; those that need labels, bounds or the posterior of the pose are left out where there are none.
    """
    found = {
        "loss": _losses(numbers),
        "bound": _bounds(numbers) if numbers.get("bound") else None,
        "excess": _excess(numbers),
        "search": _search(numbers),
        "health": _health(numbers["health"]) if numbers.get("health") else None,
        "curve": _curve(numbers),
    }
    if numbers.get("mirrored"):
        found["mirrored"] = mirror_images(numbers)
    if labelled(numbers):
        accuracy = number(numbers["clusters"]["accuracy"], ".3f")
        found |= {
            "errors": _errors(numbers["orientation"]),
            "classes": _classes(numbers),
            "latents": Table("Latents", ("",), [("accuracy of k-means", accuracy)]),
        }
    found["posterior"] = _posterior(numbers["posterior"]) if numbers.get("posterior") else None
    speed = {"plain encode-decode": "encode_decode", "align": "align"}
    rows = [(label, number(numbers["speed"][key], ",.0f")) for label, key in speed.items()]
    found["speed"] = Table("Speed", ("examples/s",), rows)
    return {name: table for name, table in found.items() if table is not None}


def _health(found: Mapping[str, float | None]) -> Table:
    """The numbers of `avae.inference.health.Health`."""
    rows = [
        ("J of the search above a denser one, nats", number(found["gap"])),
        ("examples where that is more than a nat", number(found["missed"], ".0%")),
        ("what is moved by a known pose is found elsewhere by, at the rim", number(found["turned"])),
        ("a latent direction moves the picture by, at the rim", number(found["drift"])),
        ("of the change of the picture along it, a pose explains", number(found["drift_share"], ".0%")),
    ]
    return Table("Health of poses", ("",), rows)


def mirror_images(numbers: Mapping[str, Any]) -> Table:
    """How many test examples were found mirrored, and, where they have labels, how many agree with their class."""
    labels = {"found": "found mirrored", "agree": "of the hand of their class"}
    rows = [(label, number(numbers["mirrored"][key], ".1%")) for key, label in labels.items()]
    return Table("Mirror images", ("test examples",), rows if labelled(numbers) else rows[:1])


def labelled(numbers: Mapping[str, Any]) -> bool:
    """Whether the test examples have labels: without, errors of orientation and k-means mean nothing."""
    return bool(numbers["orientation"]["classes"])


def tiles(numbers: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The few numbers at the top: (what it is, number, unit), the headline first."""
    found = []
    if gain := numbers["gain"]:
        size = "of the same size" if gain["same_size"] else "of another size"
        found.append((f"below a plain VAE {size}, on average over the test examples", mean(gain), "nats"))
    if bound := numbers.get("bound"):
        label = "log p(x), lower bound with the price of the pose"
        found.append((label, mean(bound["avae"]["search"]), "nats"))
    found += [
        ("test loss with search, z sampled", mean(numbers["loss"]["avae"]["search"]["sampled"]), "nats"),
        ("above exhaustive search", number(numbers["search"]["gap"]["mean"], ".3f"), "nats"),
        ("worst minus best rotation, with search", number(numbers["curve"]["series"]["avae_search"]["range"]), "nats"),
    ]
    if labelled(numbers):
        found += [
            ("mean resultant length per class", number(numbers["orientation"]["mean_resultant"]), ""),
            ("k-means accuracy of the latents", number(numbers["clusters"]["accuracy"]), ""),
        ]
    return [*found, ("align", number(numbers["speed"]["align"], ",.0f"), "examples/s")]


def as_text(numbers: Mapping[str, Any]) -> str:
    """All tables as aligned plain text."""
    label, shown, unit = tiles(numbers)[0]
    blocks = [f"{shown} {unit} {label}"]
    blocks += [_aligned([(table.title, *table.header), *table.rows]) for table in tables(numbers).values()]
    if not labelled(numbers):
        blocks.append(f"Rotation errors, agreement by class, k-means of the latents: {UNLABELLED}.")
    blocks.append("J with search is a maximum over poses (MAP), not a bound on log p(x); the bound pays for the pose.")
    return "\n\n".join(blocks)


def number(value: float | None, spec: str = ".2f") -> str:
    """One number as text; what is missing or not finite, which JSON does not know, is a dash."""
    return MISSING if value is None or not math.isfinite(value) else format(value, spec)


def mean(entry: Mapping[str, float | None], spec: str = ".2f") -> str:
    """A mean and its standard error as text; of a single example there is no error."""
    error = entry["standard_error"]
    return number(entry["mean"], spec) + ("" if error is None else f" ± {number(error, spec)}")


def caption(text: str, length: int = 40) -> str:
    """A label as it can be shown anywhere: on one line, no control characters, at most `length` long, not empty."""
    text = "".join(character if character.isprintable() else "?" for character in text)
    text = text if len(text) <= length else f"{text[: length - 1]}…"
    return text if text.strip() else "(no name)"


def _ways(numbers: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(key of a model, with or without search, label)."""
    return [(name, way, f"{NAMES[name]}, {words}") for name in numbers["loss"] for way, words in WAYS.items()]


def _losses(numbers: Mapping[str, Any]) -> Table:
    kinds = {"sampled": "z sampled", "at_mean": "z at the mean", "squared_error": "squared error"}
    rows = [(label, *(mean(numbers["loss"][name][way][kind]) for kind in kinds)) for name, way, label in _ways(numbers)]
    return Table("Test loss J, nats per example", tuple(kinds.values()), rows)


def _bounds(numbers: Mapping[str, Any]) -> Table:
    """Bounds on log p(x), which integrate over all that a model does not know: like with like."""
    bound, words = numbers["bound"], {"search": "with poses", "no_search": "without poses"}
    rows = [
        (f"{NAMES[name]}, {words[way]}", mean(bound[name][way]), number(bound[name][way]["effective_samples"], ".0f"))
        for name, way, _ in _ways(numbers)
    ]
    if bound["gain"]:
        rows.append(("AVAE with poses above plain VAE without", mean(bound["gain"]), ""))
    return Table("Lower bound on log p(x), nats per example", ("all integrated out", "effective draws"), rows)


def _excess(numbers: Mapping[str, Any]) -> Table:
    """What a pose costs each model, and how much of it is left after the search."""
    columns = [(kind, way) for kind in ("upright", "excess") for way in ("no_search", "search")]
    rows = [
        (NAMES[name], *(mean(loss[kind][way]) for kind, way in columns), number(loss["excess"]["ratio"]))
        for name, loss in numbers["loss"].items()
    ]
    header = ("upright", "upright, search", "excess", "excess, search", "left")
    return Table("Excess over the upright loss, nats per example", header, rows)


def _search(numbers: Mapping[str, Any]) -> Table:
    """The model's own search, the exhaustive one, and whether the search ever does harm."""
    search, series = numbers["search"], numbers["curve"]["series"]
    rows = [
        ("search of the model", mean(search["default"])),
        ("exhaustive search", mean(search["exhaustive"])),
        ("gap", mean(search["gap"], ".3f")),
    ]
    for name in numbers["loss"]:
        label = f"largest rise on an upright example, {NAMES[name]}"
        rows.append((label, number(series[f"{name}_search"]["worst_harm"], ".3f")))
    return Table("Search quality, nats per example", ("J, z at the mean",), rows)


def _curve(numbers: Mapping[str, Any]) -> Table:
    header, series = ("upright", "best", "worst", "range"), numbers["curve"]["series"]
    rows = [(label, *(number(series[f"{name}_{way}"][key]) for key in header)) for name, way, label in _ways(numbers)]
    return Table("Loss against rotation, nats per example", header, rows)


def _posterior(posterior: Mapping[str, Any]) -> Table:
    """The test examples whose pose is the least certain, in the order of their figure."""
    rows = [
        (
            f"test example {entry['index']}",
            number(entry["entropy"]),
            number(max(entry["weights"]), ".0%"),
            number(entry["effective_samples"], ".0f"),
        )
        for entry in posterior["least_certain"]
    ]
    rows.append((f"mean of {posterior['n_images']} test examples", mean(posterior["entropy"]), "", ""))
    rows.append(("no knowledge of the pose", number(posterior["prior_entropy"]), "", ""))
    return Table("Posterior of the pose", ("entropy, nats", "largest mode", "effective draws"), rows)


def _errors(orientation: Mapping[str, Any]) -> Table:
    places = {"rotation": orientation["error"], "modulo 180°": orientation["error_modulo_180"]}
    rows = [
        (label, number(error["mean"], ".1f"), number(error["median"], ".1f"), number(error["within_15"], ".1%"))
        for label, error in places.items()
        if error is not None
    ]
    return Table("Rotation error, degrees", ("mean", "median", "within 15°"), rows)


def _classes(numbers: Mapping[str, Any]) -> Table:
    """One row for each of the largest classes, and the mean over all classes."""
    orientation = numbers["orientation"]
    classes = orientation["classes"]
    columns = {
        "count": ("examples", "d"),
        "resultant": ("resultant", ".2f"),
        "median_error": ("median error, °", ".1f"),
    }
    if orientation["error_modulo_180"] is not None:
        columns["median_error_modulo_180"] = ("modulo 180°", ".1f")
    largest = set(sorted(classes, key=lambda label: -classes[label]["count"])[:MAX_CLASSES])
    rows = [
        (caption(entry["name"]), *(number(entry[key], spec) for key, (_, spec) in columns.items()))
        for label, entry in classes.items()
        if label in largest
    ]
    overall = (number(numbers["n_test"], "d"), number(orientation["mean_resultant"]))
    rows.append(("mean over all classes", *overall, *[""] * (len(columns) - 2)))
    return Table("Class", tuple(name for name, _ in columns.values()), rows)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of equal length as lines: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for label, *cells in rows:
        padded = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("   ".join([label.ljust(widths[0]), *padded]).rstrip())
    return "\n".join(lines)
