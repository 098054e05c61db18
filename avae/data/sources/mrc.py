"""Stacks of particle images or of volumes in MRC files, read where they lie.

Each example is normalised to mean 0 and standard deviation 1, as cryo-EM programs do with particles: their scale is
arbitrary. The background is then about 0, as is the level outside of the frame. Use the Gaussian likelihood. Rows stay
in the order of the file; most programs show its first row lowest.
"""

import pathlib
import sys
import warnings
from typing import Any

import numpy as np

from avae.data.sources import extras
from avae.data.sources.arrays import with_channels
from avae.data.sources.stacks import Stack
from avae.data.sources.walk import text
from avae.networks.values import standardised
from avae.runtime.mistake import Mistake

SUFFIXES = (".mrc", ".mrcs", ".mrc.gz", ".mrcs.gz", ".mrc.bz2", ".mrcs.bz2")
IMOD = 1146047817  # "IMOD" in a header: its flags say whether 8-bit values are signed


def read(path: pathlib.Path, dim: int) -> tuple[Stack, Stack]:
    """Twice the stack of a file: its sections [N, H, W] for `dim` 2, its volumes [N, D, H, W] for `dim` 3.

    Headers that break the standard, as those of many published stacks do, are read all the same; standard error tells
    what is odd.

    Raises:
      Mistake: if mrcfile is not installed, or the file is damaged, complex, or of another rank.
    """
    images, spacing, odd = _mapped(path)
    if odd:
        print(f"{text(path)}: read, but odd: {'; '.join(odd)}", file=sys.stderr)
    if images.dtype.kind not in "iuf":
        raise Mistake(
            f"data.name: expected {path} to hold real numbers, got dtype {images.dtype}; save the absolute values"
        )
    if images.ndim != dim + 1:
        words = "images [N, H, W]" if dim == 2 else "volumes [N, D, H, W]"
        raise Mistake(
            f"data.name: expected {path} to hold {words}, for data.transform poses those, got shape {images.shape}"
            + "; a stack of volumes has space group 401 in its header" * (dim == 3)
        )
    stack = Stack(
        with_channels(images, str(path), dim), None, f"examples of {text(path)}", standardised, spacing=spacing
    )
    return stack, stack


def _mapped(path: pathlib.Path) -> tuple[np.ndarray, Any, list[str]]:
    """What a file holds, left on disk, its voxels if they are of volumes, and what is odd about it."""
    mrcfile = package()
    if path.suffix.lower() in (".gz", ".bz2"):
        return _unpacked(path, mrcfile)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with mrcfile.open(path, header_only=True, permissive=True) as file:
                header = file.header
                dtype = mrcfile.utils.data_dtype_from_header(header)
                shape = mrcfile.utils.data_shape_from_header(header)
        if _unsigned(header):
            dtype = np.dtype(np.uint8)
        offset = header.nbytes + int(header.nsymbt)
        images = np.memmap(path, dtype, "r", offset, shape)
    except (ValueError, OSError, ArithmeticError) as error:
        raise Mistake(f"data.name: expected an MRC stack, but {path} cannot be read ({error})") from None
    odd = [str(warning.message).split(" - ")[0] for warning in caught]
    if extra := path.stat().st_size - offset - images.nbytes:
        odd.append(f"{extra} bytes after its {shape[0]} sections are left out")
    return images, _spacing(header, len(shape) - 1), odd + _geometry(header, len(shape) - 1)


def _unpacked(path: pathlib.Path, mrcfile: Any) -> tuple[np.ndarray, Any, list[str]]:
    """The same of a compressed file, in memory."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with mrcfile.open(path, permissive=True) as file:
                images, header = np.asarray(file.data), file.header
    except (ValueError, OSError, EOFError) as error:
        raise Mistake(f"data.name: expected an MRC stack, but {path} cannot be read ({error})") from None
    odd = ["compressed: all of it is read into memory", *(str(warning.message) for warning in caught)]
    return images, _spacing(header, images.ndim - 1), odd + _geometry(header, images.ndim - 1)


def _unsigned(header: Any) -> bool:
    """Whether 8-bit values are unsigned, as IMOD wrote them before it followed the standard, and notes it."""
    stamp, flags = np.frombuffer(header.extra2.tobytes(), np.int32, 2, 40).view(header.mode.dtype)
    return int(header.mode) == 0 and stamp == IMOD and not flags & 1


def _geometry(header: Any, dim: int) -> list[str]:
    """What the header says about axes and sample spacing that is not done."""
    odd = []
    if (order := tuple(int(header[key]) for key in ("mapc", "mapr", "maps"))) not in ((1, 2, 3), (0, 0, 0)):
        odd.append(f"its axes are in the order {order} and stay so")
    lengths = _lengths(header)
    if dim == 2 and min(lengths[:dim]) > 0 and max(lengths[:dim]) > 1.01 * min(lengths[:dim]):
        odd.append(f"its samples are {', '.join(f'{length:.4g}' for length in lengths[:dim])} long; taken as equal")
    return odd


def _lengths(header: Any) -> list[float]:
    """Of a sample along x, y, z, in angstroms; 0 where the header does not say."""
    sizes = zip("xyz", ("mx", "my", "mz"), strict=True)
    return [float(header.cella[axis]) / max(1, int(header[n])) for axis, n in sizes]


def _spacing(header: Any, dim: int) -> tuple[float, ...] | None:
    """The same of a stack of volumes, if the header says."""
    lengths = _lengths(header)
    return tuple(lengths) if dim == 3 and min(lengths) > 0 else None


def package() -> Any:
    """The package of the extra "mrc"."""
    return extras.package("mrcfile", "MRC files are read", "mrc")
