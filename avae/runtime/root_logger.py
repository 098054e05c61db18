"""The root logger is the user's: `logging.basicConfig` does nothing once a library has given it a handler."""

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def untouched() -> Iterator[None]:
    """Takes away the handlers that the root logger is given while the block runs: absl adds one with its first line."""
    before = list(logging.root.handlers)
    try:
        yield
    finally:
        for handler in set(logging.root.handlers) - set(before):
            logging.root.removeHandler(handler)
