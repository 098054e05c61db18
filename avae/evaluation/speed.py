"""How many examples a second a model encodes, and aligns."""

import math
import statistics
import time
from typing import Any

import jax
import numpy as np

from avae.align import align
from avae.evaluation.losses import plain_loss
from avae.model import Params
from avae.runtime.batches import at_once
from avae.runtime.devices import count, take

SPEED_BATCH = 512


def speed(params: Params, images: np.ndarray) -> dict[str, Any]:
    """Images per second of one plain pass and of `align`: compiled before, median of three."""
    n, each = min(at_once(images.shape[1:], SPEED_BATCH), len(images)), count()
    x = take(images, np.arange(math.ceil(n / each) * each) % len(images))
    calls = {"encode_decode": lambda: plain_loss(params, x), "align": lambda: align(params, x).loss}
    rates: dict[str, Any] = {"batch": len(x)}
    for name, call in calls.items():
        jax.block_until_ready(call())
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            jax.block_until_ready(call())
            seconds.append(time.perf_counter() - start)
        rates[name] = len(x) / statistics.median(seconds)
    return rates | {"forwards_per_align": rates["encode_decode"] / rates["align"]}
