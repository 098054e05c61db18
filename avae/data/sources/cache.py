"""Arrays decoded once and kept as memory-mapped .npy files, each with a checksum.

    $AVAE_CACHE, or ~/.cache/avae
      tfds/mnist-3.0.1/
        train_images.npy ...     as decoded
        manifest.json            what they were made from, and the SHA-256 of every file

A folder is built under another name and renamed when it is whole: a cache is there entirely or not at all. What is
damaged, or was made from something else, is built again.
"""

import functools
import hashlib
import json
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from avae.data.sources.walk import text
from avae.runtime.files import expanded
from avae.runtime.mistake import Mistake

MANIFEST = "manifest.json"


def root() -> pathlib.Path:
    """The folder of all caches: that in the environment variable AVAE_CACHE, or ~/.cache/avae."""
    return expanded(os.environ.get("AVAE_CACHE") or "~/.cache/avae")


def cached(
    name: str, source: str, build: Callable[[pathlib.Path], dict[str, Any]]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of the cache `name`, memory-mapped, and the facts noted with them; built where needed.

    Args:
      name: path of the folder below `root()`.
      source: says what the arrays are made from; another one means that they are built again.
      build: writes .npy files (see `write`) into the folder that it is given, and returns facts for JSON.

    Raises:
      Mistake: if the folder cannot be written.
    """
    folder = root() / name
    try:
        if problem := _problem(folder, source):
            if folder.exists():
                print(f"cache {text(folder)}: {problem}; building it again", file=sys.stderr)
            _build(folder, source, build)
    except OSError as error:
        raise Mistake(
            f"cache: cannot write {folder} ({error}); the environment variable AVAE_CACHE may name another folder"
        ) from None
    manifest = json.loads((folder / MANIFEST).read_text())
    arrays = {pathlib.Path(file).stem: np.load(folder / file, mmap_mode="r") for file in manifest["sha256"]}
    return arrays, manifest["facts"]


def write(path: pathlib.Path, arrays: Iterable[np.ndarray]) -> int:
    """Writes equal arrays [*shape], one after the other and not held in memory, as one array [N, *shape].

    Returns:
      N, which need not be known beforehand.

    Raises:
      Mistake: if there is none.
      OSError: if they cannot be written.
    """
    n, header, first = 0, 0, None
    with path.open("wb") as file:
        for array in arrays:
            if first is None:
                first = array
                header = _header(file, first, n)
            file.write(np.ascontiguousarray(array, first.dtype).tobytes())
            n += 1
        if first is None:
            raise Mistake(f"{path.name}: expected examples, got none")
        file.seek(0)
        if _header(file, first, n) != header:  # numpy pads it, so that the first axis can grow
            raise Mistake(f"{path.name}: cannot note {n} examples")
    return n


def _header(file: Any, array: np.ndarray, n: int) -> int:
    facts = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": (n, *array.shape)}
    np.lib.format.write_array_header_1_0(file, facts)
    return file.tell()


def _build(folder: pathlib.Path, source: str, build: Callable[[pathlib.Path], dict[str, Any]]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = pathlib.Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        made.chmod(folder.parent.stat().st_mode)  # a folder that others may read, where they may read those beside it
        facts = build(made)
        sums = {path.name: _sha256(path) for path in sorted(made.glob("*.npy"))}
        (made / MANIFEST).write_text(json.dumps({"source": source, "facts": facts, "sha256": sums}, indent=2) + "\n")
        if not _problem(folder, source):  # another process was faster: its arrays are as good
            return
        if folder.exists():
            folder.rename(made.with_name(made.name + "-old"))
        made.rename(folder)
    except OSError:
        if _problem(folder, source):
            raise
    finally:
        for left in (made, made.with_name(made.name + "-old")):
            shutil.rmtree(left, ignore_errors=True)


def _problem(folder: pathlib.Path, source: str) -> str:
    """What is wrong with a cache; "" if nothing is."""
    if not folder.is_dir():
        return "absent"
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if manifest["source"] != source:
            return "made from something else, or from another version"
        for name, expected in manifest["sha256"].items():
            state = (folder / name).stat()
            if _sha256_once(folder / name, state.st_size, state.st_mtime_ns) != expected:
                return f"{name} is damaged (another checksum)"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"damaged ({error})"
    return ""


@functools.lru_cache
def _sha256_once(path: pathlib.Path, size: int, changed: int) -> str:
    """Of a file that has not changed since: a process reads it once, however often it asks."""
    return _sha256(path)


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
