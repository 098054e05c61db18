"""Files that are whole or not there: whoever reads, or is killed while writing, never meets half a file."""

import contextlib
import os
import pathlib


def write_whole(path: pathlib.Path, content: str | bytes) -> None:
    """Writes `content` to `path` atomically: to a temporary file beside it, which then takes its place.

    Text is written as UTF-8; what UTF-8 does not have (a lone surrogate of an undecodable file name) becomes "?".

    Raises:
      OSError: if it could not be written (a full disk); what was at `path` before is untouched.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_bytes(content.encode(errors="replace") if isinstance(content, str) else content)
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def expanded(path: str | os.PathLike[str]) -> pathlib.Path:
    """`path` with `~` for the home folder: no shell expands it behind the "=" of a flag."""
    return pathlib.Path(os.path.expanduser(path))
