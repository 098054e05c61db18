"""The cores of a CPU side by side: one batch of small networks leaves some of them idle, two batches at once do not.

XLA shares each operation out over the cores, and most of those of a search are too small for that. Here a part of the
batch goes to each core, by a thread of its own: compiled code runs without Python's lock.
"""

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

LEAST = 16  # images of a part: with fewer the products of matrices are too small
SCOPED = (  # settings of JAX that `with` may change, for one thread alone
    "jax_enable_x64", "jax_default_matmul_precision", "jax_default_device", "jax_debug_nans", "jax_debug_infs",
    "jax_disable_jit", "jax_numpy_rank_promotion", "jax_numpy_dtype_promotion", "jax_log_compiles",
)  # fmt: skip


def n_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parts_at_once(x: Array) -> int:
    """Into how many equal parts a batch [B, ...] goes, one a core; 1 under a trace, on devices, or if it is small."""
    if isinstance(x, Tracer) or len(x.devices()) > 1 or next(iter(x.devices())).platform != "cpu":
        return 1
    return max(n for n in range(1, n_cores() + 1) if n == 1 or (len(x) % n == 0 and len(x) >= n * LEAST))


def side_by_side(function: Callable[[Any], Any], x: Array, n: int) -> Any:
    """`function` of a batch [B, ...], by `n` equal parts at once; returns a pytree of arrays [B, ...].

    The batch goes through whole where it is one part, and where a `with` has changed JAX's settings for this thread.
    """
    if n == 1:
        return function(x)
    threads = _threads(n)
    if threads.submit(_scoped).result() != _scoped():
        return function(x)
    parts = threads.map(lambda part: jax.block_until_ready(function(part)), np.split(np.asarray(x), n))
    return _joined(list(parts))


@functools.cache
def _threads(n: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n, "avae")


@jax.jit
def _joined(parts: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def _scoped() -> tuple[Any, ...]:
    return tuple(getattr(jax.config, name) for name in SCOPED)
