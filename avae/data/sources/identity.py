"""A short hash by which a run recognises its data: the same wherever they lie, another one where their content differs.

It is cheap, so it reads a sample: all names, sizes, shapes and labels, but at most `SAMPLED` examples, evenly spaced.
"""

import hashlib
import os
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from avae.data.sources.stacks import Stack
from avae.data.sources.walk import File

SAMPLED = 256  # examples, or files, whose content is read
BYTES = 2**20  # of each sampled file


def of_stacks(stacks: Iterable[Stack]) -> str:
    """Hash of stacks: dtype, shape and labels of each, and the stored values of a sample."""
    digest = hashlib.sha256()
    for stack in stacks:
        digest.update(f"{stack.images.dtype.str} {stack.images.shape}\n".encode())
        digest.update(np.ascontiguousarray(stack.images[_sample(len(stack.images))]).tobytes())
        if stack.labels is not None:
            digest.update("\n".join(map(str, stack.labels.tolist())).encode(errors="surrogatepass"))
    return digest.hexdigest()[:16]


def of_files(root: pathlib.Path, files: Sequence[File]) -> str:
    """Hash of the files below a folder: path below the root and size of each, and the first bytes of a sample."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(os.fsencode(file.path.relative_to(root)) + f" {file.path.stat().st_size}\n".encode())
    for row in _sample(len(files)):
        with files[row].path.open("rb") as content:
            digest.update(content.read(BYTES))
    return digest.hexdigest()[:16]


def _sample(n: int) -> np.ndarray:
    """At most `SAMPLED` of `n` rows, evenly spaced, the first and the last among them."""
    return np.unique(np.linspace(0, n - 1, min(n, SAMPLED)).round().astype(int))
