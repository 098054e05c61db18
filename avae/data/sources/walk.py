"""Files below a folder, with the label and the part (train, test) that the folders above them give."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from avae.runtime.mistake import Mistake

PARTS = ("train", "test")


class File(NamedTuple):
    """A file, the category that its folder names, and its part: "train", "test", or "" where there is none."""

    path: pathlib.Path
    category: str
    part: str


def find(root: pathlib.Path, suffixes: Sequence[str], what: str) -> list[File]:
    """The files below `root` with one of the suffixes, sorted by path; hidden files and folders are left out.

    The category is the first folder below the root that is not called train or test (root/chair/test/x.off), or else
    the root itself.

    Args:
      root: the folder.
      suffixes: in lower case, with the dot; those of the files may be in upper case.
      what: what such files hold, in the plural, for people.

    Raises:
      Mistake: if there is no such file, or only some of them are in folders called train or test.
    """
    files = []
    for path in sorted(root.rglob("*")):
        folders = path.relative_to(root).parts[:-1]
        hidden = any(name.startswith((".", "__")) for name in (*folders, path.name))
        if path.suffix.lower() in suffixes and not hidden and path.is_file():
            part = next((name.lower() for name in folders if name.lower() in PARTS), "")
            category = next((name for name in folders if name.lower() not in PARTS), root.resolve().name)
            files.append(File(path, category, part))
    if not files:
        raise Mistake(f"data.name: expected {what} ({', '.join(suffixes)}) in the folder {root}, found none")
    parts = {file.part for file in files}
    if "" in parts and len(parts) > 1:
        stray = next(file.path for file in files if not file.part)
        raise Mistake(f"data.name: expected all {what} of {root} in a folder train or test, or none, but {stray}")
    return files


def some(names: Sequence[str], n: int = 5) -> str:
    """The first `n` names, and how many more there are."""
    return ", ".join(names[:n]) + (f" and {len(names) - n} more" if len(names) > n else "")
