"""Stacks of particle images or of volumes in MRC files, read where they lie.

Every example is brought to mean 0 and standard deviation 1 of its own, as cryo-EM programs do with particles: their
scale is arbitrary, and the background, about 0 then, goes on outside of the frame. That asks for the Gaussian
likelihood. Rows stay in the order of the file; most programs show its first row lowest.
"""

import pathlib
from typing import Any

import numpy as np

from avae.data.sources.arrays import with_channels
from avae.data.sources.stacks import Stack
from avae.runtime.mistake import Mistake

SUFFIXES = (".mrc", ".mrcs")


def read(path: pathlib.Path, dim: int) -> tuple[Stack, Stack]:
    """Twice the stack of a file: its sections [N, H, W] for `dim` 2, its volumes [N, D, H, W] for `dim` 3.

    Raises:
      Mistake: if mrcfile is not installed, or the file is damaged, complex, or of another rank.
    """
    mrcfile = _mrcfile()
    try:
        with mrcfile.open(path, header_only=True) as file:
            dtype = mrcfile.utils.data_dtype_from_header(file.header)
            shape = mrcfile.utils.data_shape_from_header(file.header)
            offset = file.header.nbytes + int(file.header.nsymbt)
        images = np.memmap(path, dtype, "r", offset, shape)
    except (ValueError, OSError) as error:
        raise Mistake(f"data.name: expected an MRC stack, but {path} cannot be read ({error})") from None
    if images.dtype.kind not in "iuf":
        raise Mistake(f"data.name: expected {path} to hold real numbers, got dtype {images.dtype}")
    if images.ndim != dim + 1:
        words = "images [N, H, W]" if dim == 2 else "volumes [N, D, H, W]"
        raise Mistake(f"data.name: expected {path} to hold {words}, for data.transform poses those, got shape {shape}")
    stack = Stack(with_channels(images, str(path), dim), None, f"examples of {path}", standardised)
    return stack, stack


def standardised(images: np.ndarray) -> np.ndarray:
    """Each example of [N, *space, C] with mean 0 and standard deviation 1, float32; all 0 where it is constant."""
    axes = tuple(range(1, images.ndim))
    values = images.astype(np.float32)
    values -= values.mean(axis=axes, keepdims=True, dtype=np.float64).astype(np.float32)
    spread = values.std(axis=axes, keepdims=True, dtype=np.float64)
    return values / np.where(spread > 0, spread, 1).astype(np.float32)


def _mrcfile() -> Any:
    """The package of the extra "mrc", imported only where there is such a file."""
    try:
        import mrcfile
    except ImportError:
        raise Mistake('data.name: MRC files are read by mrcfile, which is missing: pip install "avae[mrc]"') from None
    return mrcfile
