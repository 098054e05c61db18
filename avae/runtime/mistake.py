"""What is raised where the caller is to mend something: `train.py` shows it as a sentence, without a traceback."""

import numbers
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
