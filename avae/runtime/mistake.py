"""What is raised where the caller is to mend something: `train.py` shows it as a sentence, without a traceback."""

import difflib
import numbers
from collections.abc import Iterable
from typing import Any


class Mistake(ValueError):
    """Wrong input: an argument, a setting, a file. The message says what was expected and what came."""


def at_least(section: str, settings: Any, **least: float) -> None:
    """Checks the least values of some settings.

    Args:
      section: what they are called in the message.
      settings: the object that has them.
      **least: the least value of each.

    Raises:
      Mistake: for the first that is below its least value, or no whole number.
    """
    for name, low in least.items():
        value = getattr(settings, name)
        if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < low:
            raise Mistake(f"{section}.{name}: expected a whole number of at least {low}, got {value!r}")


def suggestion(name: Any, known: Iterable[str], otherwise: str = "") -> str:
    """What to add to a message about an unknown `name`: which of the known names was meant, or something else."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else otherwise
