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
PSI, ORIGIN, ANGSTROMS = "rlnAnglePsi", ("rlnOriginX", "rlnOriginY"), ("rlnOriginXAngst", "rlnOriginYAngst")
GROUP, PIXEL = "rlnOpticsGroup", "rlnImagePixelSize"


def read(path: pathlib.Path, dim: int) -> tuple[Stack, Stack]:
    """Twice the stack of the particles that a table lists, in its order; classes, if any, are labels.

    A path in it is relative to the table's folder, or to one above it, the root of the project.

    Raises:
      Mistake: if starfile is missing, the table lists no particles, or images are gone or of several sizes.
    """
    table, _ = _tables(path)
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


def poses(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """The angle psi [N] in degrees and the origin [N, 2] in pixels, x first, of the particles; 0 where none is given.

    Raises:
      Mistake: if the table gives neither, or origins in angstroms without a pixel size.
    """
    table, optics = _tables(path)
    columns = table.columns
    if not {PSI, *ORIGIN, *ANGSTROMS} & set(columns):
        raise Mistake(f"known poses: expected {PSI} or {ORIGIN[0]} in {path}, got {', '.join(columns)}")
    zero = np.zeros(len(table))
    psi = table[PSI].to_numpy(float) if PSI in columns else zero
    angstroms = ANGSTROMS[0] in columns
    origin = np.stack([table[name].to_numpy(float) if name in columns else zero for name in
                       (ANGSTROMS if angstroms else ORIGIN)], axis=1)  # fmt: skip
    if not angstroms:
        return psi, origin
    if optics is None:
        raise Mistake(f"known poses: expected {PIXEL} beside origins in angstroms, got none in {path}")
    if GROUP in columns:
        sizes = optics.set_index(GROUP)[PIXEL].reindex(table[GROUP]).to_numpy(float)
    else:
        sizes = np.full(len(table), float(optics[PIXEL].iloc[0]))
    if not (sizes > 0).all():
        raise Mistake(f"known poses: expected a {PIXEL} above 0 for each optics group of the particles in {path}")
    return psi, origin / sizes[:, None]


def _tables(path: pathlib.Path) -> tuple[Any, Any]:
    """The table of particles of a file, and that of its optics groups, or None."""
    starfile = extras.package("starfile", ".star files are read", "mrc")
    try:
        tables: dict[str, Any] = dict(starfile.read(path, always_dict=True))
    except Exception as error:  # a parser of damaged text raises nearly anything
        raise Mistake(f"data.name: expected a .star table, but {path} cannot be read ({error})") from None

    def having(name: str) -> Any:
        return next((table for table in tables.values() if name in getattr(table, "columns", ())), None)

    if (table := having(NAME)) is None:
        raise Mistake(f"data.name: expected a table with rlnImageName in {path}, got {', '.join(map(str, tables))}")
    return table, having(PIXEL)


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
