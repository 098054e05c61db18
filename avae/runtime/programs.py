"""Compiled programs of functions that callers bring."""

import functools
import weakref
from collections.abc import Callable
from typing import Any

import jax
from jax.typing import ArrayLike

STATIC = (2, 3, 4)  # of the arguments after the first

_programs: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def compiled(function: Callable[..., Any], first: Any) -> Callable[..., Any]:
    """`function(first, ...)`, compiled, for a `first` that may be a function; the last three arguments are static.

    A pytree of arrays is an argument like any other. Anything else, such as a closure over weights, is compiled once;
    its program holds only a weak reference to it, and dies with it.
    """
    if all(isinstance(leaf, ArrayLike) for leaf in jax.tree.leaves(first)):
        return functools.partial(_with_arrays(function), first)
    if first not in _programs:
        alive: Callable[[], Any] = weakref.ref(first)
        _programs[first] = jax.jit(lambda *args: function(alive(), *args), static_argnums=STATIC)
    return _programs[first]


@functools.cache
def _with_arrays(function: Callable[..., Any]) -> Callable[..., Any]:
    return jax.jit(function, static_argnums=tuple(i + 1 for i in STATIC))
