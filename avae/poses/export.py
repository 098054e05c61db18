"""Poses for other tools: RELION's .star and ITK's transforms, from what `avae align` wrote.

The pull map of avae finds the point p of the aligned image at A p + t in the image. The origin is the centre; x points
right and y down.

RELION (Scheres 2012; conventions of Heymann et al. 2005) moves a point q of an image to R(psi) (q + origin), with
R(psi) = [[cos, -sin], [sin, cos]]. q has x along columns and y along rows. Its origin is the pixel size // 2; for even
sizes that is half a pixel from our centre, (size - 1) / 2.

ITK maps a point of the output to a point of the input, A (p - c) + c + t in physical units. That is the pull map in
pixels. `SimpleITK.Resample(image, transform)` gives the aligned image.
"""

import pathlib
from typing import Any

import numpy as np

from avae.poses import table
from avae.runtime.mistake import Mistake

KINDS = ("csv", "npz", "star", "itk")


def star(folder: pathlib.Path, path: pathlib.Path) -> None:
    """A RELION particle table: one row per image that could be aligned, shifts in angstroms where the data say so.

    Args:
      folder: what `avae align` wrote.
      path: of the table.

    Raises:
      Mistake: for poses that are not turns and shifts of images, or mirror them.
    """
    found = table.read(folder)
    angle, centre, rows = _planar(found)
    source = pathlib.Path(str(found["source"]))
    images, pixel_size = str(source), _pixel_size(source)
    unit = pixel_size or 1.0
    shift = -centre * unit
    suffix = "" if not pixel_size else "Angst"
    lines = ["# version 30001", "", "data_optics", "", "loop_", "_rlnOpticsGroup #1", "_rlnOpticsGroupName #2"]
    lines += ["_rlnImagePixelSize #3", "_rlnImageSize #4", "_rlnImageDimensionality #5"]
    lines += [f"1 opticsGroup1 {unit:.6f} {int(found['space'][-1])} 2", "", "# version 30001", "", "data_particles", ""]
    lines += ["loop_", "_rlnImageName #1", "_rlnAnglePsi #2", f"_rlnOriginX{suffix} #3", f"_rlnOriginY{suffix} #4"]
    lines += ["_rlnOpticsGroup #5"]
    for row, psi, (x, y) in zip(rows, angle, shift, strict=True):
        lines.append(f"{row + 1:06d}@{images} {psi:.6f} {x:.6f} {y:.6f} 1")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")


def itk(folder: pathlib.Path, out: pathlib.Path) -> None:
    """One ITK transform file per image that could be aligned, out/000000.tfm, for images with a spacing of 1."""
    found = table.read(folder)
    out.mkdir(exist_ok=True)
    space = found["space"][::-1]  # x first
    centre, half = (space - 1) / 2, space.min() / 2
    dim = len(space)
    for row in np.flatnonzero(found["finite"]):
        matrix = found["matrix"][row].astype(np.float64)
        numbers = [*matrix[:, :dim].ravel(), *(matrix[:, dim] * half)]
        kind = f"AffineTransform_double_{dim}_{dim}"
        text = ["#Insight Transform File V1.0", "#Transform 0", f"Transform: {kind}"]
        text += ["Parameters: " + " ".join(f"{x:.9g}" for x in numbers)]
        text += ["FixedParameters: " + " ".join(f"{x:.9g}" for x in centre)]
        (out / f"{row:06d}.tfm").write_text("\n".join(text) + "\n", encoding="utf-8")


def _planar(found: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """RELION psi in degrees [N], the place in the image [N, 2] in pixels from its origin, and the rows [N]."""
    rows = np.flatnonzero(found["finite"])
    matrix, space = found["matrix"][rows].astype(np.float64), found["space"]
    rigid = matrix.shape[1] == 2 and np.allclose(
        matrix[:, :, :2] @ matrix[:, :, :2].swapaxes(1, 2), np.eye(2), atol=1e-3
    )
    if not rigid or (np.linalg.det(matrix[:, :, :2]) < 0).any():
        raise Mistake("--to star: expected turns and shifts of images, got poses that scale, mirror, or are of volumes")
    offset = (space[::-1] - 1) / 2 - space[::-1] // 2  # of our centre from RELION's origin
    a = matrix[:, :, :2]
    # Found from RELION's origin: the point p is at A (p - offset) + t + offset, and p = 0 is its centre.
    centre = matrix[:, :, 2] * space.min() / 2 + offset - np.einsum("nij,j->ni", a, offset)
    return -np.degrees(np.arctan2(a[:, 1, 0], a[:, 0, 0])), centre, rows


def _pixel_size(source: pathlib.Path) -> float | None:
    """Of an MRC file, in angstroms; None where nothing says."""
    if source.suffix.lower() not in (".mrc", ".mrcs") or not source.exists():
        return None
    import mrcfile

    with mrcfile.open(source, header_only=True, permissive=True) as file:
        return float(file.voxel_size.x) or None
