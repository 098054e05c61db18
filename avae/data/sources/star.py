"""RELION's .star: a table of particles, each a section of one of many .mrcs files."""

import pathlib
from typing import Any

import numpy as np

from avae.data.sources import extras, mrc
from avae.data.sources.lazy import Lazy
from avae.data.sources.stacks import Stack
from avae.data.sources.walk import text
from avae.networks.values import standardised
from avae.runtime.mistake import Mistake

SUFFIXES = (".star",)
NAME, KIND = "rlnImageName", "rlnClassNumber"


def read(path: pathlib.Path, dim: int) -> tuple[Stack, Stack]:
    """Twice the stack of the particles that a table lists, in its order; classes, if any, are labels.

    A path in it is relative to the table's folder, or to one above it, the root of the project.

    Raises:
      Mistake: if starfile is missing, the table lists no particles, or images are gone or of several sizes.
    """
    starfile = extras.package("starfile", ".star files are read", "mrc")
    try:
        tables: dict[str, Any] = dict(starfile.read(path, always_dict=True))
    except Exception as error:  # a parser of damaged text raises nearly anything
        raise Mistake(f"data.name: expected a .star table, but {path} cannot be read ({error})") from None
    table: Any = next((table for table in tables.values() if NAME in getattr(table, "columns", ())), None)
    if table is None:
        raise Mistake(f"data.name: expected a table with rlnImageName in {path}, got {', '.join(map(str, tables))}")
    sections, names = zip(*(_parsed(path, str(name)) for name in table[NAME]), strict=True)
    files = {name: _found(path, name) for name in dict.fromkeys(names)}
    if gone := [name for name, file in files.items() if file is None]:
        some = ", ".join(gone[:3]) + (", ..." if len(gone) > 3 else "")
        raise Mistake(f"data.name: {path} lists {len(gone)} stack(s) that are not there: {some}")
    stacks = {name: mrc.read(file, dim)[0].images for name, file in files.items() if file is not None}
    kinds = {(stack.shape[1:], stack.dtype) for stack in stacks.values()}
    if len(kinds) > 1:
        raise Mistake(f"data.name: expected stacks of one size and dtype in {path}, got {sorted(map(str, kinds))}")
    shape, dtype = kinds.pop()
    places, rows = np.array(names), np.array(sections) - 1
    for name, stack in stacks.items():
        if (last := rows[places == name].max()) >= len(stack):
            raise Mistake(f"data.name: {path} lists section {last + 1} of {name}, which has {len(stack)}")

    def some_of(wanted: np.ndarray) -> np.ndarray:
        images = np.empty((len(wanted), *shape), dtype)
        for name in np.unique(places[wanted]):
            here = places[wanted] == name
            images[here] = stacks[name][rows[wanted[here]]]
        return images

    labels = table[KIND].to_numpy() if KIND in table.columns else None
    found = Lazy((len(rows), *shape), dtype, some_of)
    stack = Stack(found, labels, f"particles of {text(path)}", standardised, np.array(list(map(str, table[NAME]))))
    return stack, stack


def _parsed(path: pathlib.Path, name: str) -> tuple[int, str]:
    """Section, from 1, and file of a name such as "000012@stack.mrcs"."""
    number, at, file = name.partition("@")
    if not at or not number.strip().isdigit():
        raise Mistake(f"data.name: expected images such as 000012@stack.mrcs in {path}, got {name!r}")
    return int(number), file


def _found(path: pathlib.Path, name: str) -> pathlib.Path | None:
    """Where a file of the table is."""
    if pathlib.Path(name).is_absolute():
        return pathlib.Path(name) if pathlib.Path(name).exists() else None
    roots = (path.absolute().parent, *path.absolute().parent.parents)
    return next((root / name for root in roots if (root / name).exists()), None)
