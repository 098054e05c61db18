"""Floating-point operations and bytes of a compiled computation, as the compiler counts them.

The compiler counts a loop as one turn. So nothing is looped while it is counted: all starts are scored at once, batches
do not go through in parts, and a step of refinement costs what one step costs more than none. Bytes are what compiled
kernels read and write: traffic between them, whether it stays in a cache or not.
"""

import dataclasses
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax

from avae.runtime import parts
from avae.settings import Search

Count = dict[str, float]


def counted(function: Callable[..., Any], *args: Any) -> Count:
    """{"flops", "bytes"} of `function(*args)`; nothing is run."""
    with in_one_part():
        return said(jax.jit(function).lower(*args).compile())


def said(compiled: Any) -> Count:
    """{"flops", "bytes"} of what was compiled, a loop counted as one turn."""
    analysis = compiled.cost_analysis() or {}
    return {"flops": analysis["flops"], "bytes": analysis["bytes accessed"]}


def of_search(count: Callable[[Search], Count], search: Search) -> Count:
    """What `count` says of a computation with this search in it, all turns of all loops counted."""
    none, one = (count(dataclasses.replace(search, n_steps=steps)) for steps in (0, 1))
    if search.n_steps == 0:
        return none
    return one | {name: none[name] + search.n_steps * (one[name] - none[name]) for name in ("flops", "bytes")}


def in_one_part() -> Any:
    """A context in which nothing is cut into parts that stay in a CPU's cache."""
    return mock.patch.multiple(parts, CACHE=2**60, LEAST=2**30, budget=lambda: 2**60)
