"""What the benchmarks share: one line of flags, variants that take turns, and results as JSON and Markdown."""

import argparse
import json
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

RESULTS = pathlib.Path("benchmarks/results")


def flags(description: str | None) -> argparse.ArgumentParser:
    """A parser with the flag that all of them have, and the script's docstring as its help."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS, help="folder of the results")
    return parser


def in_turns(variants: Mapping[Any, Callable[[], Any]], repeats: int) -> dict[Any, list[float]]:
    """Seconds of each call of each variant; they take turns, so that they share the machine's noise.

    A variant waits for its own result. Its first call compiles, and does not count.
    """
    seconds: dict[Any, list[float]] = {name: [] for name in variants}
    for repeat in range(repeats + 1):
        for name, variant in variants.items():
            start = time.perf_counter()
            variant()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def save(folder: pathlib.Path, name: str, result: Mapping[str, Any], text: str) -> None:
    """Writes `result` to <name>.json and the Markdown `text` to <name>.md, and prints the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    (folder / f"{name}.md").write_text(text)
    print(text)


def facts(environment: Mapping[str, Any]) -> str:
    """What the numbers depend on, in one line of Markdown."""
    return ", ".join(f"{name}: {value}" for name, value in environment.items()) + "."
