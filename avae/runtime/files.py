"""Files that are whole or not there: whoever reads, or is killed while writing, never meets half a file."""

import contextlib
import mmap
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np


@contextlib.contextmanager
def whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary path beside `path`, of the same suffix: what is written there takes its place when the block ends.

    Raises:
      OSError: if it could not be written (a full disk). After this or any other error, what was at `path` before is
        untouched, and the temporary file is gone.
    """
    draft = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield draft
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def write_whole(path: pathlib.Path, content: str | bytes) -> None:
    """Writes `content` to `path` atomically: see `whole`.

    Text is written as UTF-8; what UTF-8 does not have (a lone surrogate of an undecodable file name) becomes "?".
    """
    with whole(path) as draft:
        draft.write_bytes(content.encode(errors="replace") if isinstance(content, str) else content)


def expanded(path: str | os.PathLike[str]) -> pathlib.Path:
    """`path` with `~` for the home folder: no shell expands it behind the "=" of a flag."""
    return pathlib.Path(os.path.expanduser(path))


def let_go(array: Any) -> None:
    """Gives back the memory of what was read from, or written to, the file that an array is mapped from.

    The file keeps all of it, and the array reads it again when asked. Other arrays stay as they are.
    """
    while isinstance(array, np.ndarray) and getattr(array, "mode", "") != "c":  # a private copy has no file behind it
        array = array.base
    if isinstance(array, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        array.madvise(mmap.MADV_DONTNEED)
