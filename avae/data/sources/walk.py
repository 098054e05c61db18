"""Files below a folder, with the label and the part (train, test) that the folders above them give."""

import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from avae.runtime.mistake import Mistake

PARTS = ("train", "test")


class File(NamedTuple):
    """A file, the category that its folder names, and its part: "train", "test", or "" where there is none."""

    path: pathlib.Path
    category: str
    part: str


def find(root: pathlib.Path, suffixes: Sequence[str], what: str, *, quiet: bool = False) -> list[File]:
    """The files below `root` with one of the suffixes, sorted by path. Links are followed, but not in circles.

    Files and folders whose names begin with a dot are hidden, and so are those that operating systems add. Whatever
    else is left out is counted and named on standard error: other files, links to nothing, folders that cannot be read.

    The category is the first folder below the root that is not called train or test, as in root/chair/test/x.off. If
    there is none, it is the root itself.

    Args:
      root: the folder.
      suffixes: in lower case, with the dot; those of the files may be in upper case.
      what: what such files hold, in the plural, for people.
      quiet: nothing goes to standard error.

    Raises:
      Mistake: if there is no such file, or only some of them are in folders called train or test.
    """
    files, left_out = [], []
    for path in _below(root, left_out, ()):
        if not path.name.lower().endswith(tuple(suffixes)):
            left_out.append(str(path.relative_to(root)))
            continue
        folders = path.relative_to(root).parts[:-1]
        part = next((name.lower() for name in folders if name.lower() in PARTS), "")
        category = next((name for name in folders if name.lower() not in PARTS), root.resolve().name)
        files.append(File(path, text(category), part))
    if not files:
        also = f" (left out: {some(left_out)})" if left_out else ""
        raise Mistake(f"data.name: expected {what} ({', '.join(suffixes)}) in the folder {root}, found none{also}")
    parts = {file.part for file in files}
    if "" in parts and len(parts) > 1:
        stray = next(file.path for file in files if not file.part)
        raise Mistake(f"data.name: expected all {what} of {root} in a folder train or test, or none, but {stray}")
    if left_out and not quiet:
        print(f"{text(root)}: {len(left_out)} left out that are no {what}: {some(left_out)}", file=sys.stderr)
    return files


def holds(root: pathlib.Path, suffixes: Sequence[str]) -> bool:
    """Whether there is any file below `root` with one of the suffixes."""
    return any(path.name.lower().endswith(tuple(suffixes)) for path in _below(root, [], ()))


def some(names: Sequence[str], n: int = 5) -> str:
    """The first `n` names, and how many more there are."""
    return ", ".join(map(text, names[:n])) + (f" and {len(names) - n} more" if len(names) > n else "")


def text(name: str | os.PathLike[str]) -> str:
    r"""A name that any file may have, as text that can be written as UTF-8: other bytes of it become \xff."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _below(folder: pathlib.Path, left_out: list[str], above: tuple[tuple[int, int], ...]) -> Iterator[pathlib.Path]:
    """All files below a folder, sorted by path; notes what cannot be entered. `above` are the folders that hold it."""
    try:
        state = folder.stat()
        if (state.st_dev, state.st_ino) in above:
            left_out.append(f"{folder} (a link to a folder that holds it)")
            return
        paths = sorted(folder.iterdir())
    except OSError as error:
        left_out.append(f"{folder} ({error.strerror})")
        return
    for path in paths:
        if path.name.startswith(".") or path.name in ("__MACOSX", "__pycache__", "Thumbs.db", "desktop.ini"):
            continue
        if path.is_dir():
            yield from _below(path, left_out, (*above, (state.st_dev, state.st_ino)))
        elif path.is_file():
            yield path
        else:
            left_out.append(f"{path} (a link to nothing, or no file)")
