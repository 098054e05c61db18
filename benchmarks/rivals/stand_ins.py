"""What the rivals' code imports and a comparison does not use, or finds in another form than when it was written."""

import importlib
import sys
import types
from typing import Any

import numpy as np


class _Named(types.ModuleType):
    """A module in which every name is a function that does nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: None


def without(*names: str, **functions: Any) -> None:
    """Puts empty modules in the place of these, with the given functions in the last of them."""
    for name in names:
        module = sys.modules[name] = _Named(name)
        above, _, last = name.rpartition(".")
        if above:
            setattr(sys.modules[above], last, module)
    for key, function in functions.items():
        setattr(sys.modules[names[-1]], key, function)


def with_older_numpy(name: str) -> None:
    """Imports a package written for NumPy 1.20 with two of its habits: `np.float`, and `copy=False` where it can be."""

    class Older(types.ModuleType):
        float = float

        @staticmethod
        def array(value: Any, *args: Any, copy: Any = True, **kwargs: Any) -> np.ndarray:
            return np.array(value, *args, copy=copy or None, **kwargs)

        def __getattr__(self, name: str) -> Any:
            return getattr(np, name)

    importlib.import_module(name)
    package = name.partition(".")[0]
    for module in [module for key, module in sys.modules.items() if key.partition(".")[0] == package]:
        if getattr(module, "np", None) is np:
            module.np = Older("numpy")  # pyright: ignore
