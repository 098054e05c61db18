"""Which numbers the report shows, and how: each cell names a place in results.json and a format, and holds no number.

So the terminal, report.html and results.json cannot disagree.
"""

import html
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from avae.evaluation.evaluate import NAMES

MISSING = "-"
UNLABELLED = "not measured, for the data have no labels"
MAX_CLASSES = 20


class Cell(NamedTuple):
    """A number: its place in the results (keys joined by dots), its format, and the place of its standard error."""

    path: str
    spec: str = ".2f"
    error: str = ""


class Table(NamedTuple):
    """`title` heads the names of the rows, `header` their cells; None is an empty cell."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, *tuple[Cell | None, ...]]]


def tables(numbers: Mapping[str, Any]) -> dict[str, Table]:
    """The tables of the report, by section, for the models that were measured.

    Args:
      numbers: `avae.evaluation.evaluate.Results.numbers`, or results.json read back.

    Returns:
      Tables by section; those that need labels are left out where there are none.
    """
    ways = [(f"{NAMES[name]}, {words}", f"{name}.{way}") for name in numbers["loss"] for way, words in _WAYS.items()]
    kinds = ("sampled", "at_mean", "squared_error")
    loss = [(label, *(_mean(f"loss.{place}.{kind}") for kind in kinds)) for label, place in ways]
    series = [(label, f"curve.series.{place.replace('.', '_')}") for label, place in ways]
    curve = [
        (label, *(Cell(f"{place}.{key}") for key in ("upright", "best", "worst", "range"))) for label, place in series
    ]
    errors = [("rotation", "orientation.error"), ("modulo 180°", "orientation.error_modulo_180")]
    errors = [
        (label, Cell(f"{place}.mean", ".1f"), Cell(f"{place}.median", ".1f"), Cell(f"{place}.within_15", ".1%"))
        for label, place in errors
        if find(numbers, place) is not None
    ]
    found = {
        "loss": Table("Test loss J, nats per example", ("z sampled", "z at the mean", "squared error"), loss),
        **({"bound": _bound_table(numbers)} if numbers.get("bound") else {}),
        "excess": _excess_table(numbers),
        "search": _search_table(numbers),
        "curve": Table(
            "Loss against rotation, nats per example",
            ("upright", "best", "worst", "range"),
            curve,
        ),
        "errors": Table("Rotation error, degrees", ("mean", "median", "within 15°"), errors),
        "classes": _class_table(numbers),
        "latents": Table("Latents", ("",), [("accuracy of k-means", Cell("clusters.accuracy", ".3f"))]),
        "speed": Table(
            "Speed",
            ("examples/s",),
            [("plain encode-decode", Cell("speed.encode_decode", ",.0f")), ("align", Cell("speed.align", ",.0f"))],
        ),
    }
    left_out = () if labelled(numbers) else ("errors", "classes", "latents")
    return {name: table for name, table in found.items() if name not in left_out}


def labelled(numbers: Mapping[str, Any]) -> bool:
    """Whether the test examples have labels: without, errors of orientation and k-means mean nothing."""
    return bool(numbers["orientation"]["classes"])


def tiles(numbers: Mapping[str, Any]) -> list[tuple[str, Cell, str]]:
    """The few numbers at the top: (what it is, cell, unit), the headline first."""
    rows = [
        ("test loss with search, z sampled", _mean("loss.avae.search.sampled"), "nats"),
        ("above exhaustive search", Cell("search.gap.mean", ".3f"), "nats"),
        ("worst minus best rotation, with search", Cell("curve.series.avae_search.range"), "nats"),
        *(
            [
                ("mean resultant length per class", Cell("orientation.mean_resultant"), ""),
                ("k-means accuracy of the latents", Cell("clusters.accuracy"), ""),
            ]
            if labelled(numbers)
            else []
        ),
        ("align", Cell("speed.align", ",.0f"), "examples/s"),
    ]
    if numbers.get("bound"):
        rows[:0] = [("log p(x), lower bound with the price of the pose", _mean("bound.avae.search"), "nats")]
    if numbers["gain"] is None:
        return rows
    size = "of the same size" if numbers["gain"]["same_size"] else "of another size"
    gain = (f"below a plain VAE {size}, on average over the test examples", _mean("gain"), "nats")
    return [gain, *rows]


def as_text(numbers: Mapping[str, Any]) -> str:
    """All tables as aligned plain text."""
    blocks = []
    for label, cell, unit in tiles(numbers)[:1]:
        blocks.append(f"{show(numbers, cell)} {unit} {label}")
    for table in tables(numbers).values():
        rows = [(label, *(show(numbers, cell) for cell in cells)) for label, *cells in table.rows]
        blocks.append(_aligned([(table.title, *table.header), *rows]))
    if not labelled(numbers):
        blocks.append(f"Rotation errors, agreement by class, k-means of the latents: {UNLABELLED}.")
    blocks.append("J with search is a maximum over poses (MAP), not a bound on log p(x); the bound pays for the pose.")
    return "\n\n".join(blocks)


def as_html(numbers: Mapping[str, Any], table: Table) -> str:
    """One table as HTML."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in (table.title, *table.header))
    rows = [
        f"<tr><td>{html.escape(label)}</td>{''.join(f'<td>{cell_html(numbers, cell)}</td>' for cell in cells)}</tr>"
        for label, *cells in table.rows
    ]
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def cell_html(numbers: Mapping[str, Any], cell: Cell | None) -> str:
    """One number, marked with its place in results.json and its format."""
    if cell is None:
        return ""

    def number(path: str) -> str:
        return f'<span data-key="{path}" data-format="{cell.spec}">{_format(find(numbers, path), cell.spec)}</span>'

    error = f' <span class="error">± {number(cell.error)}</span>' if cell.error else ""
    return number(cell.path) + error


def show(numbers: Mapping[str, Any], cell: Cell | None) -> str:
    """One number as text."""
    if cell is None:
        return ""
    error = f" ± {_format(find(numbers, cell.error), cell.spec)}" if cell.error else ""
    return _format(find(numbers, cell.path), cell.spec) + error


def find(numbers: Mapping[str, Any], path: str) -> Any:
    """What stands at `path` (keys joined by dots)."""
    value: Any = numbers
    for key in path.split("."):
        value = value[key]
    return value


_WAYS = {"search": "with search", "no_search": "without search"}


def _search_table(numbers: Mapping[str, Any]) -> Table:
    """The model's own search, the exhaustive one, and whether the search ever does harm."""
    harm = [
        (f"largest rise on an upright example, {NAMES[name]}", Cell(f"curve.series.{name}_search.worst_harm", ".3f"))
        for name in numbers["loss"]
    ]
    rows = [
        ("search of the model", _mean("search.default")),
        ("exhaustive search", _mean("search.exhaustive")),
        ("gap", Cell("search.gap.mean", ".3f", "search.gap.standard_error")),
        *harm,
    ]
    return Table("Search quality, nats per example", ("J, z at the mean",), rows)


def _bound_table(numbers: Mapping[str, Any]) -> Table:
    """Bounds on log p(x), which integrate over all that a model does not know: like with like."""
    rows: list[Any] = [
        (f"{NAMES[name]}, {words}", _mean(place := f"bound.{name}.{way}"), Cell(f"{place}.effective_samples", ".0f"))
        for name in numbers["loss"]
        for way, words in (("search", "with poses"), ("no_search", "without poses"))
    ]
    if numbers["bound"]["gain"]:
        rows.append(("AVAE with poses above plain VAE without", _mean("bound.gain"), None))
    return Table("Lower bound on log p(x), nats per example", ("all integrated out", "effective draws"), rows)


def _excess_table(numbers: Mapping[str, Any]) -> Table:
    """What a pose costs each model, and how much of it is left after the search."""
    columns = (("upright", "no_search"), ("upright", "search"), ("excess", "no_search"), ("excess", "search"))
    rows = [
        (NAMES[name], *(_mean(f"loss.{name}.{kind}.{way}") for kind, way in columns), Cell(f"loss.{name}.excess.ratio"))
        for name in numbers["loss"]
    ]
    header = ("upright", "upright, search", "excess", "excess, search", "left")
    return Table("Excess over the upright loss, nats per example", header, rows)


def _class_table(numbers: Mapping[str, Any]) -> Table:
    """One row for each of the largest classes, and the mean over all classes."""
    orientation = numbers["orientation"]
    classes = orientation["classes"]
    largest = set(sorted(classes, key=lambda label: -classes[label]["count"])[:MAX_CLASSES])
    columns = {
        "count": ("examples", "d"),
        "resultant": ("resultant", ".2f"),
        "median_error": ("median error, °", ".1f"),
    }
    if orientation["error_modulo_180"] is not None:
        columns["median_error_modulo_180"] = ("modulo 180°", ".1f")
    rows: list[Any] = [
        (entry["name"], *(Cell(f"orientation.classes.{label}.{key}", spec) for key, (_, spec) in columns.items()))
        for label, entry in classes.items()
        if label in largest
    ]
    empty = [None] * (len(columns) - 2)
    rows.append(("mean over all classes", Cell("n_test", "d"), Cell("orientation.mean_resultant"), *empty))
    return Table("Class", tuple(name for name, _ in columns.values()), rows)


def _mean(place: str) -> Cell:
    return Cell(f"{place}.mean", ".2f", f"{place}.standard_error")


def _format(value: Any, spec: str) -> str:
    return MISSING if value is None else format(value, spec)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of equal length as lines: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for label, *cells in rows:
        padded = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("   ".join([label.ljust(widths[0]), *padded]).rstrip())
    return "\n".join(lines)
