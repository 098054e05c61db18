"""The table of poses: one row per image of the data, in its order, with units in the names of the columns."""

import csv
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation as SpatialRotation

from avae.runtime.files import let_go, whole, write_whole
from avae.transforms import Transform

AXES = "xyz"
ROWS = 10_000  # written at a time


def dtype(family: Transform, latent: int) -> np.dtype:
    """A row: what `columns` makes the readable table of. All of it is of fixed size, so that a row has its place."""
    return np.dtype(
        [
            ("done", "?"),
            ("finite", "?"),
            ("alpha", "f4", (family.size,)),
            ("matrix", "f4", (family.dim, family.dim + 1)),
            ("std", "f4", (family.dof,)),
            ("loss", "f4"),
            ("loss_at_identity", "f4"),
            ("latent", "f4", (latent,)),
        ]
    )


def columns(rows: np.ndarray, family: Transform, space: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The columns [N] of the readable table.

    The pull map finds a point p of the aligned image at A p + t in the image. The origin is the centre, the unit half
    the shorter side; x points right and y down. The rotation is `angle_deg` for images, and the rotation vector
    `turn_x_deg`, ... for volumes. `shift_x_px`, ... is the point of the image, in pixels from its centre, that moves to
    the centre of the aligned image.

    Args:
      rows: a table of `dtype` [N].
      family: that of the poses.
      space: shape of an image [*space].
    """
    dim, half = family.dim, min(space) / 2
    matrix, finite = rows["matrix"].astype(np.float64), rows["finite"]
    linear = np.where(finite[:, None, None], matrix[..., :dim], np.eye(dim))
    if (lengths := getattr(family, "spacing", None)) is not None:  # turns are turns in space, not in voxels
        linear = linear * (np.array(lengths)[:, None] / np.array(lengths))
    u, _, vt = np.linalg.svd(linear)
    hand = np.linalg.det(u @ vt)
    flip = np.ones((len(rows), dim))
    flip[:, 0] = np.where(hand < 0, -1, 1)  # a mirror image is turned after left and right are exchanged
    turn = (u @ vt) * flip[:, None, :]
    found: dict[str, np.ndarray] = {}
    if dim == 2:
        found["angle_deg"] = np.degrees(np.arctan2(turn[:, 1, 0], turn[:, 0, 0]))
    else:
        vector = SpatialRotation.from_matrix(turn).as_rotvec(degrees=True)
        found |= {f"turn_{axis}_deg": vector[:, i] for i, axis in enumerate(AXES)}
    found |= {f"shift_{axis}_px": matrix[:, i, -1] * half for i, axis in zip(range(dim), AXES, strict=False)}
    found["scale"] = np.abs(np.linalg.det(linear)) ** (1 / dim)
    found["mirrored"] = (np.linalg.det(linear) < 0).astype(int)
    for k, (name, factor) in enumerate(_tangent(family, half)):
        found[f"std_{name}"] = rows["std"][:, k] * factor
    found |= {f"a{i}{j}": matrix[:, i, j] for i in range(dim) for j in range(dim)}
    found |= {f"t{axis}": matrix[:, i, -1] for i, axis in zip(range(dim), AXES, strict=False)}
    blank = ~finite
    for name, values in found.items():
        if values.dtype.kind == "f" and blank.any():
            found[name] = np.where(blank, np.nan, values)
    return found | {"loss": rows["loss"], "loss_at_identity": rows["loss_at_identity"], "finite": finite.astype(int)}


def write_csv(
    path: pathlib.Path, rows: np.ndarray, family: Transform, space: tuple[int, ...], words: Mapping[str, Sequence[str]]
) -> None:
    """The readable table as CSV, a bounded number of rows at a time; `words` are columns [N] that come first.

    What is no UTF-8 in a file's name is written as the bytes that it has.
    """
    with whole(path) as draft, draft.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file, lineterminator="\n")
        for start in range(0, len(rows), ROWS):
            part = columns(np.asarray(rows[start : start + ROWS]), family, space)
            if start == 0:
                writer.writerow(["row", *words, *part])
            for k, values in enumerate(zip(*map(_texts, part.values()), strict=True)):
                row = start + k
                writer.writerow([row, *(column[row] for column in words.values()), *values])
            let_go(rows)


def read(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of poses.npz in a folder that `avae align` wrote."""
    with np.load(folder / "poses.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def write_npz(path: pathlib.Path, rows: np.ndarray, words: Mapping[str, Sequence[str]], facts: dict[str, Any]) -> None:
    """The table as arrays [N, ...], beside what is needed to understand them."""
    arrays = {name: np.asarray(rows[name]) for name in rows.dtype.names or () if name != "done"}
    arrays |= {{"file": "files"}.get(name, name): np.array(column) for name, column in words.items()}
    with whole(path) as draft:
        np.savez(draft, **arrays, **{name: np.asarray(value) for name, value in facts.items()})  # pyright: ignore


def write_header(path: pathlib.Path, family: Transform) -> None:
    """What the columns of poses.csv mean, in words."""
    names = ", ".join(name for name, _ in _tangent(family, 1.0)) or "none"
    write_whole(
        path,
        f"""poses.csv: one row per image, in the order of the data; the family is {family}.

row               number of the image, from 0
file              where it is, relative to the data, where each is in a file of its own or has a name in the data
label             its label, where the data have them
angle_deg         (images) angle of the pull map's rotation, in degrees: atan2(A10, A00)
turn_x_deg ...    (volumes) its rotation vector, in degrees
shift_x_px ...    the place in the image, in pixels right of (below, behind) its centre, that comes to the centre of the
                  aligned image
scale             |det A|^(1/dim): above 1, the aligned image shows more of the image
mirrored          1 if the aligned image is a mirror image
std_...           one standard deviation of the pose along each direction ({names}); infinite where the image says
                  nothing
a00 ... tx ...    the pull map [A | t]: the point p of the aligned image is found in the image at A p + t, from the
                  centre, in half-widths of the shorter side, x to the right, y down
loss              J at the pose, in nats; loss_at_identity: J of the image as it is
finite            0 for an image that could not be read or has values that are not finite: its row is empty (nan)

poses.npz holds the same as arrays (`file` is called files), with alpha (the pose as avae has it) and the latents.
""",
    )


def _tangent(family: Transform, half: float) -> Iterator[tuple[str, float]]:
    """Name with its unit, and factor to that unit, of each tangent direction."""
    turns, shifts = family.dof - family.shifts, family.shifts
    planar = family.dim == 2 and type(getattr(family, "family", family)).__name__ in ("Rotation", "Rigid", "Similarity")
    spatial = family.dim == 3 and turns >= 3
    for k in range(turns):
        if planar and k == 0:
            yield "angle_deg", 180 / np.pi
        elif spatial and k < 3:
            yield f"turn_{AXES[k]}_deg", 180 / np.pi
        else:
            yield f"direction_{k}", 1.0
    for k in range(shifts):
        yield f"shift_{AXES[k]}_px", half


def _texts(values: np.ndarray) -> list[str]:
    if values.dtype.kind == "f":
        return [f"{value:.7g}" for value in values.tolist()]
    return [str(value) for value in values.tolist()]
