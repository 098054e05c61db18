"""A folder tree of meshes as occupancy volumes, upright in our frame.

Meshes live in a physical, right-handed frame; our arrays are [D, H, W] with y down the rows (see `avae.warp`):

        up                        z (D), into the picture
        | away                   /
        |/                      +---- x (W)
        +---- right             |
                                y (H), down

so that `imshow(volume[d, :, :, 0])` shows the object as it stands, slices going from its front (d = 0) to its back.
"""

import pathlib
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from avae.data.sources import extras, walk
from avae.data.sources.stacks import fitting
from avae.data.sources.walk import PARTS, File, some
from avae.runtime.mistake import Mistake
from avae.runtime.progress import Progress

SUFFIXES = (".off", ".obj", ".stl", ".ply")
UPS = ("y", "z")
MARGIN = 0.15  # of the side, empty at either end of the longest axis: turned corners stay inside the frame
NUDGE = 1e-3  # voxels; a flat face that falls between two layers of voxels goes to one of them, whatever the rounding


def stand(voxels: np.ndarray) -> np.ndarray:
    """Volumes [..., X, Y, Z] (x right, y up, z toward the viewer) as [..., D, H, W] (x right, y down, z away).

    Both frames are right-handed: half a turn about x (det +1), never a mirror image.
    """
    return voxels[..., ::-1, ::-1].swapaxes(-1, -3)


def find(root: pathlib.Path, *, quiet: bool = False) -> list[File]:
    """The meshes below `root`: see `avae.data.sources.walk.find`."""
    return walk.find(root, SUFFIXES, "meshes", quiet=quiet)


def voxelise(path: pathlib.Path, side: int, up: str) -> tuple[np.ndarray, bool]:
    """One mesh as a filled volume [side, side, side] of bools, and whether its surface is closed.

    The centre of its bounding box moves to the centre of the frame. Its longest side fills 0.7 of the frame (22 voxels
    of 32). An open surface encloses only what is closed at the size of a voxel.

    Raises:
      Mistake: if the file cannot be read as a mesh, has no faces, or no extent.
    """
    trimesh = _trimesh()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a parser about a file that then fails, or reads well all the same
            mesh = trimesh.load_mesh(path)
    except Exception as error:  # parsers of damaged files raise nearly anything
        raise Mistake(f"unreadable: {type(error).__name__}: {error}") from None
    if len(mesh.faces) == 0:
        raise Mistake("no faces")
    vertices = np.asarray(mesh.vertices, np.float64)
    if up == "z":
        vertices = vertices @ np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # (x, y, z) -> (x, z, -y)
    low, high = (bound(vertices[np.asarray(mesh.faces)], axis=(0, 1)) for bound in (np.min, np.max))
    longest = (high - low).max()
    if not (np.isfinite(longest) and longest > 0):
        raise Mistake(f"expected a finite extent above zero, got {longest}")
    closed = bool(mesh.is_watertight)
    cells = side - 2 * round(MARGIN * side)
    mesh.vertices = (vertices - (low + high) / 2) * ((cells - 1) / longest) + (side - 1) / 2 + NUDGE
    grid = mesh.voxelized(1.0, max_iter=None).fill()
    index = np.asarray(grid.sparse_indices) + np.round(grid.translation).astype(int)
    voxels = np.zeros((side,) * 3, bool)
    voxels[tuple(index.T)] = True
    return stand(voxels), closed


class Voxels(NamedTuple):
    """Volumes [n, side, side, side, 1] float32 of 0 and 1, and the category of each."""

    volumes: np.ndarray
    categories: list[str]


class Report(NamedTuple):
    """What people are told about: meshes left out, with the reason, and meshes with open surfaces."""

    left_out: list[str]
    open: list[str]


def read(root: pathlib.Path, n_train: int, n_test: int, seed: int, side: int, up: str) -> tuple[Voxels, Voxels]:
    """Training and test volumes, drawn by seed: from folders called train and test if there are, else from one lot.

    Only as many meshes are voxelised as are asked for. Those that cannot be used are left out and named on standard
    error; so are those with open surfaces, which stay in.

    Raises:
      Mistake: if trimesh is not installed, or fewer meshes can be used than are asked for.
    """
    _trimesh()
    found = find(root)
    rng = np.random.default_rng(seed)
    shuffled = [found[row] for row in rng.permutation(len(found))]
    split = found[0].part != ""
    lots = {part: [mesh for mesh in shuffled if mesh.part in (part, "")] for part in PARTS}
    sizes = {"train": n_train, "test": n_test}
    report = Report([], [])
    _check_enough(root, split, sizes, {part: len(lot) for part, lot in lots.items()}, report)
    streams = {part: iter(lot) for part, lot in lots.items()}
    if not split:
        streams["train"] = streams["test"]  # what the one took, the other does not
    with Progress("voxelising meshes", n_train + n_test, unit="file", every=max(1, (n_train + n_test) // 10)) as bar:
        taken = {part: _take(streams[part], sizes[part], side, up, report, bar) for part in ("test", "train")}
        for what, names in (("left out", report.left_out), ("open, filled where they enclose voxels", report.open)):
            if names:
                bar.say(f"meshes: {len(names)} {what}: {some(names)}")
    usable = {part: len(voxels.categories) for part, voxels in taken.items()}
    _check_enough(root, split, sizes, usable if split else dict.fromkeys(PARTS, sum(usable.values())), report)
    return taken["train"], taken["test"]


def _check_enough(
    root: pathlib.Path, split: bool, wanted: dict[str, int], usable: dict[str, int], report: Report
) -> None:
    """Raises Mistake if fewer meshes are usable than wanted; without a split, both parts count all of them."""
    why = f"; left out: {some(report.left_out)}" if report.left_out else ""
    for part in PARTS if split else ():
        if wanted[part] > usable[part]:
            raise Mistake(
                f"data.n_{part}: expected at most the {usable[part]} usable meshes in folders {part} of {root}, "
                f"got {wanted[part]}{why}"
            )
    if not split and wanted["train"] + wanted["test"] > usable["train"]:
        raise Mistake(
            f"data: expected n_train + n_test of at most the {usable['train']} usable meshes of {root}, got "
            f"{wanted['train']} + {wanted['test']}{fitting(wanted['train'], wanted['test'], usable['train'])}{why}"
        )


def _take(meshes: Iterator[File], n: int, side: int, up: str, report: Report, progress: Progress) -> Voxels:
    """The next `n` usable meshes, or as many as there are."""
    volumes, categories = np.zeros((n, side, side, side, 1), np.float32), []
    while len(categories) < n and (mesh := next(meshes, None)):
        try:
            voxels, closed = voxelise(mesh.path, side, up)
        except ValueError as error:
            report.left_out.append(f"{mesh.path.name} ({error})")
            continue
        if not closed:
            report.open.append(mesh.path.name)
        volumes[len(categories), ..., 0] = voxels
        categories.append(mesh.category)
        progress.advance()
    return Voxels(volumes[: len(categories)], categories)


def _trimesh() -> Any:
    """The package of the extra "mesh", imported only where there are meshes to read."""
    return extras.package("trimesh", "meshes are read", "mesh")
