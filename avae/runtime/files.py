"""Files that are written whole or not at all."""

import contextlib
import os
import pathlib


def write_whole(path: pathlib.Path, data: bytes) -> None:
    """Writes `data` beside `path`, then renames it in one step: a full disk or a kill leaves the old file as it was."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_bytes(data)
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
