"""Runs again what stands in the README and in docs/, and keeps the numbers in one table.

    python benchmarks/reproduce.py --list
    python benchmarks/reproduce.py --only "rotated digits"
    python benchmarks/reproduce.py --only cells animals --given o2vae=CHECKOUT animals=animals.npz

A recipe is one command of a page and what is read from its results. The numbers, as the pages show them, go with the
command, the commit, the machine, the date and the minutes into benchmarks/results/numbers.json and, for reading, into
docs/reproducing.md; tests/test_reproduce.py holds the README and docs/ to them, so that a number that has changed is
corrected there too. Runs are kept below `--root`. What a command needs from outside (data, a rival's checkout) is given
by `--given NAME=PATH` and stands in the command as {NAME}.
"""

import argparse
import json
import os
import pathlib
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from avae.report.page import environment

HERE = pathlib.Path(__file__).resolve().parent
TABLE, PAGE = HERE / "results" / "numbers.json", HERE.parent / "docs" / "reproducing.md"

Reader = Callable[[pathlib.Path, str], dict[str, str]]  # a folder of results and what was printed -> numbers as shown


class Recipe(NamedTuple):
    """A command, and how its numbers are found.

    Attributes:
      command: as a page shows it.
      read: gives the numbers by name.
      more: what is added to the command, {out} being the folder of the run; several for several runs.
      pages: on which the numbers stand.
    """

    command: str
    read: Reader
    more: tuple[str, ...]
    pages: tuple[str, ...] = ("README.md",)


def of_runs(**paths: str) -> Reader:
    """Means over runs of what stands at these paths in their results.json; with the error where there is one run."""

    def read(out: pathlib.Path, printed: str) -> dict[str, str]:
        runs = [json.loads(path.read_text()) for path in sorted(out.glob("*/results.json"))]
        found = {}
        for name, path in paths.items():
            values = [_at(run, path) for run in runs]
            error = f" ± {values[0]['standard_error']:.2f}" if path.startswith("bound") and len(values) == 1 else ""
            found[name.replace("_", " ")] = f"{statistics.fmean(value['mean'] for value in values):.2f}{error}"
        return found

    return read


def of_printed(column: int, **rows: str) -> Reader:
    """What a Markdown table that was printed has in a column of the rows that begin with these words."""

    def read(out: pathlib.Path, printed: str) -> dict[str, str]:
        lines = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in printed.splitlines()]
        table = {cells[0].strip(): cells for cells in lines if len(cells) > column}
        return {name.replace("_", " "): table[row][column] for name, row in rows.items()}

    return read


def of_drift(out: pathlib.Path, printed: str) -> dict[str, str]:
    """The mean over seeds of the median error of the angle, the last of each seed."""
    rows = [json.loads(line) for line in (out / "drift.jsonl").read_text().splitlines()]
    return {"avae": f"{statistics.fmean({row['seed']: row['median'] for row in rows}.values()):.2f}°"}


def of_speed(out: pathlib.Path, printed: str) -> dict[str, str]:
    """Images per second of the default search and of PyTorch's."""
    rows = json.loads((out / "align_mlp_64.json").read_text())["rows"]
    rate = lambda start: next(row["images_per_second"] for row in rows if row["name"].startswith(start))  # noqa: E731
    return {"avae": f"{rate('avae.align default'):,.0f}", "best rival": f"{rate('PyTorch search'):.1f}"}


def of_table(name: str) -> Reader:
    """The first number of each row of the table that a comparison writes; the files are kept with the others."""

    def read(out: pathlib.Path, printed: str) -> dict[str, str]:
        for path in (*out.glob(f"{name}.*"), *out.glob("*.png")):
            target = TABLE.parent if path.suffix != ".png" else HERE.parent / "docs" / "images"
            (target / path.name).write_bytes(path.read_bytes())
        lines = [line for line in (out / f"{name}.md").read_text().splitlines() if line.startswith("| ")]
        cells = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines[1:]]
        named = [sum(not re.match(r"[-+\d]", cell) for cell in row if cell) for row in cells]  # words, then numbers
        firsts = [next(filter(None, row[n:]), "") for row, n in zip(cells, named, strict=True)]
        return {", ".join(row[:n]): first for row, n, first in zip(cells, named, firsts, strict=True)}

    return read


SEARCHED, PLAIN = "loss.avae.search.sampled", "loss.plain_vae.no_search.sampled"
SEEDS = tuple(f"--config.train.seed={seed} --workdir={{out}}/{seed}" for seed in range(3))
OUT, RESULTS = ("--out {out}",), ("README.md", "docs/results.md")
RIVALS = "PYTHONPATH=benchmarks python benchmarks/rivals"
RECIPES = {
    "rotated digits": Recipe(
        "python train.py --config=configs/rot_mnist.py", of_runs(avae=SEARCHED, plain_VAE=PLAIN), SEEDS, RESULTS
    ),
    "rotated digits, bound": Recipe(
        "python benchmarks/experiments.py rotation --seeds 5 --epochs 30 --plain_epochs 30 --search_every 5",
        of_printed(2, avae="AVAE, searched in training", plain_VAE="VAE, trained on random rotations"),
        ("--root {out}",),
        RESULTS,
    ),
    "digits turned and shifted": Recipe(
        "python train.py --config=configs/vitae_mnist.py",
        of_runs(avae="bound.avae", plain_VAE="bound.plain_vae"),
        ("--workdir={out}/0",),
        RESULTS,
    ),
    "rivals' protocol": Recipe(
        "python train.py --config=configs/rivals_mnist.py", of_runs(avae="bound.avae"), ("--workdir={out}/0",), RESULTS
    ),
    "noisy particles": Recipe(
        "python benchmarks/drift.py particles --epochs 24 --seeds 0 1 2", of_drift, OUT, ("README.md",)
    ),
    "cells": Recipe(
        f"{RIVALS}/cells.py --minutes 2 --seeds 1 --o2vae {{o2vae}}", of_table("rival_cells"), OUT, ("docs/results.md",)
    ),
    "animals": Recipe(
        f"{RIVALS}/animals.py --data {{animals}} --minutes 5 --seeds 1",
        of_table("rival_animals"),
        OUT,
        ("docs/results.md",),
    ),
    "O2-MNIST": Recipe(
        f"{RIVALS}/o2vae.py --minutes 1.5 --seeds 1 --n 1500 --o2vae {{o2vae}}",
        of_table("rival_o2vae"),
        OUT,
        ("docs/results.md",),
    ),
    "searches": Recipe(
        f"{RIVALS}/tied.py --minutes 0.6 --seeds 1 --n 24 --shares 0.25 --tied {{tied}}",
        of_table("rival_tied"),
        OUT,
        ("docs/results.md",),
    ),
    "speed": Recipe(
        "python benchmarks/align.py --workdir=runs/rot_mnist", of_speed, OUT, ("README.md", "docs/performance.md")
    ),
}


def _at(run: Mapping[str, Any], path: str) -> Any:
    for key in path.split("."):
        run = run[key]
    return run


def reproduced(name: str, root: pathlib.Path, given: Mapping[str, str]) -> dict[str, Any]:
    """Runs a recipe, in a folder of its own for each commit, and gives its entry in the table.

    Raises:
      ValueError: if something that the command needs is not given.
      CalledProcessError: if a command fails.
    """
    recipe, where = RECIPES[name], environment()
    if lacking := [key for key in re.findall(r"\{(\w+)\}", recipe.command) if key not in given]:
        raise ValueError(f"{name}: expected --given {lacking[0]}=PATH")
    out = root / f"{re.sub(r'[^a-z0-9]+', '_', name)}_{where['commit']}"
    out.mkdir(parents=True, exist_ok=True)
    start, printed = time.perf_counter(), ""
    for more in recipe.more:
        words = shlex.split(f"{recipe.command} {more}".format(out=out, **given))
        settings = dict(word.split("=", 1) for word in words if re.fullmatch(r"[A-Z]+=.*", word))
        words = [word for word in words if word.partition("=")[0] not in settings]
        words = [sys.executable if word == "python" else word for word in words]
        done = subprocess.run(
            words, cwd=HERE.parent, env=os.environ | settings, check=True, text=True, stdout=subprocess.PIPE
        )
        printed += done.stdout
    facts = {"commit": where["commit"], "date": where["date"][:10], "machine": where["machine"]}
    facts["minutes"] = f"{(time.perf_counter() - start) / 60:.1f}"
    return {"command": recipe.command} | facts | {"numbers": recipe.read(out, printed), "pages": list(recipe.pages)}


def page(table: Mapping[str, Mapping[str, Any]]) -> str:
    """The table as docs/reproducing.md."""
    lines = [
        "# Reproducing the numbers",
        "",
        "`python benchmarks/reproduce.py --list` names the recipes; `--only NAME` runs one and writes its numbers here",
        "and into [numbers.json](../benchmarks/results/numbers.json). A test holds the pages to them. The commit is",
        "the one that was run; for numbers that are older than this page, the one that entered them.",
        "",
        "| recipe | command | numbers | commit | date | minutes |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in table.items():
        numbers = "; ".join(f"{what} {value}" for what, value in row["numbers"].items())
        lines.append(
            f"| {name} | `{row['command']}` | {numbers} | {row['commit']} | {row['date']} | {row['minutes']} |"
        )
    machines = sorted({row["machine"] for row in table.values()})
    return "\n".join([*lines, "", f"Machine: {'; '.join(machines)}; no GPU."]) + "\n"


def write(table: Mapping[str, Mapping[str, Any]]) -> None:
    """The table as JSON and as the page."""
    TABLE.write_text(json.dumps(table, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(table), encoding="utf-8")


def read() -> dict[str, dict[str, Any]]:
    """The table as it is."""
    return json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.exists() else {}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="name the recipes and their commands, and end")
    parser.add_argument("--only", nargs="+", help="names of recipes; default: all of them")
    parser.add_argument("--given", nargs="*", default=[], metavar="NAME=PATH", help="what commands need from outside")
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path("runs/reproduced"))
    args = parser.parse_args(arguments)
    if args.list:
        for name, recipe in RECIPES.items():
            minutes = read().get(name, {}).get("minutes", "")
            print(f"{name}: {recipe.command}{f'   ({minutes} minutes)' if minutes else ''}")
        return
    names = args.only or list(RECIPES)
    if unknown := [name for name in names if name not in RECIPES]:
        parser.error(f"expected names out of {', '.join(RECIPES)}, got {unknown[0]!r}")
    if wrong := [pair for pair in args.given if "=" not in pair]:
        parser.error(f"--given: expected NAME=PATH, got {wrong[0]!r}")
    for name in names:
        try:
            found = reproduced(name, args.root.resolve(), dict(pair.split("=", 1) for pair in args.given))
        except (ValueError, subprocess.CalledProcessError) as error:
            sys.exit(f"error: {error}")
        table = read()
        before = table.get(name, {}).get("numbers", {})
        write(table | {name: found})
        for what, value in found["numbers"].items():
            print(f"{name}, {what}: {value} (before: {before.get(what, 'none')})")


if __name__ == "__main__":
    main()
