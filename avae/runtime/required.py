"""The versions that avae needs, checked when it is imported; written so that an older Python can read this file."""

import importlib.metadata
import re
import sys

PYTHON = (3, 11)
LIBRARIES = {"jax": (0, 10), "flax": (0, 12)}  # as in pyproject.toml


def check():
    """Checks Python and the libraries.

    Raises:
      ImportError: for a version that is too old; it says which is wanted, which is there, and what to do.
    """
    if sys.version_info[:2] < PYTHON:
        found = "{}.{}".format(*sys.version_info[:2])
        raise ImportError("avae expects Python {}.{} or newer, got {} ({})".format(*PYTHON, found, sys.executable))
    for name, wanted in LIBRARIES.items():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # importing it says so
        if tuple(map(int, re.findall(r"\d+", found)[:2])) < wanted:
            least = "{}.{}".format(*wanted)
            raise ImportError(
                f'avae expects {name} {least} or newer, got {found}; python -m pip install --upgrade "{name}>={least}"'
            )
