"""Libraries of the extras, imported only where there is a file that needs them."""

import importlib
from typing import Any

from avae.runtime.mistake import Mistake


def package(name: str, what: str, extra: str) -> Any:
    """The library `name`; raises Mistake if it is missing: `what` it does, and the `extra` that brings it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise Mistake(f'data.name: {what} by {name}, which is missing: pip install "avae[{extra}]"') from None
