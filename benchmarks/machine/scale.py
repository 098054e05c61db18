"""What a training step computes and what it sends, read off the compiled step; and a model of runs on many devices.

PYTHONPATH=benchmarks python benchmarks/machine/scale.py --config=configs/rot_mnist.py [--devices=8 --flops=...]

Counts come from the compiler (`cost_analysis` of one device's share of the step, and its all-reduce in the text of the
compiled step, on fake CPU devices). Peaks of the accelerator are what you give: floating-point operations, bytes of
memory traffic and bytes of network traffic per second and device. With them it prints the model of docs/scale.md.
"""

import dataclasses
import importlib.util
import math
import re

import jax
import numpy as np
from absl import app, flags
from counts import in_one_part, of_search, said

from avae.config import Experiment, experiment
from avae.runtime import devices
from avae.settings import Search
from avae.training import step as training

CONFIG = flags.DEFINE_string("config", "configs/rot_mnist.py", "An experiment of configs/.")
DEVICES = flags.DEFINE_integer("devices", 8, "Fake devices on which the step is compiled.")
PER_DEVICE = flags.DEFINE_integer("per_device", 128, "Images of a batch on each device.")
FLOPS = flags.DEFINE_float("flops", None, "Operations per second of one device, as its maker says.")
MEMORY = flags.DEFINE_float("memory", None, "Bytes per second of one device's memory, as its maker says.")
NETWORK = flags.DEFINE_float("network", None, "Bytes per second that one device sends, as its maker says.")
SHARE = flags.DEFINE_float("share", 0.3, "Share of those peaks that is reached: measure it.")
IMAGES = flags.DEFINE_float("images", 1e7, "Images of the data set in the example.")
EPOCHS = flags.DEFINE_float("epochs", 30, "Epochs of the example.")
SIZES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "pred": 1}


def counts(path: str, n: int, per_device: int) -> dict[str, float]:
    """Operations and bytes of memory traffic of one device's step, bytes of its all-reduce, number of weights.

    Loops are counted as `benchmarks/machine/counts.py` says.
    """
    spec = importlib.util.spec_from_file_location("config", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"config: expected a Python file, got {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    config.train.batch_size = n * per_device
    described = experiment(config)
    search = described.train.search
    if search is None:
        return cost(described, n)
    return of_search(lambda search: cost(with_search(described, search), n), search)


def with_search(described: Experiment, search: Search) -> Experiment:
    """The same experiment with another search in its training steps."""
    return dataclasses.replace(described, train=dataclasses.replace(described.train, search=search))


def cost(described: Experiment, n: int) -> dict[str, float]:
    """What the compiler says of one step on n devices."""
    state = devices.replicate(training.init_state(described))
    shape, batch_size = described.model.image_shape or (), described.train.batch_size
    batch = devices.take(np.zeros((1, *shape), np.float32), np.zeros(batch_size, int))
    with in_one_part():
        compiled = training.train_step.lower(state, batch, described, shards=n).compile()
    sent = [line for line in compiled.as_text().splitlines() if re.search(r" all-reduce(-start)?\(", line)]
    return {
        **said(compiled),
        "all_reduce": sum(map(result_bytes, sent)),
        "all_reduces": len(sent),
        "weights": sum(leaf.size for leaf in jax.tree.leaves(state.params.weights)),
    }


def result_bytes(line: str) -> int:
    """Bytes of the result of one line of a compiled text."""
    shapes = re.findall(r"(\w+)\[([\d,]*)\]", line.split("=", 1)[1].split(" all-reduce")[0])
    return sum(SIZES[kind] * math.prod(map(int, filter(None, sides.split(",")))) for kind, sides in shapes)


def seconds(count: dict[str, float], n: int, flops: float, memory: float, network: float, share: float) -> float:
    """The model: seconds of a step on n devices, `share` of all peaks being reached.

    A device is busy with arithmetic or with its memory, whichever takes longer; then the gradients go round the ring of
    devices twice, less one n-th.
    """
    work = max(count["flops"] / flops, count["bytes"] / memory)
    return (work + 2 * (n - 1) / n * count["all_reduce"] / network) / share


def main(argv: list[str]) -> None:
    """Counts, and where peaks are given, images/s and hours by the number of devices."""
    del argv
    jax.config.update("jax_num_cpu_devices", DEVICES.value)
    count = counts(CONFIG.value, DEVICES.value, PER_DEVICE.value)
    print(
        f"{CONFIG.value}, {PER_DEVICE.value} images on each of {DEVICES.value} devices, {count['weights']:,.0f} weights"
    )
    print(f"operations per image       {count['flops'] / PER_DEVICE.value:,.0f}")
    print(f"memory traffic per image   {count['bytes'] / PER_DEVICE.value:,.0f} bytes")
    print(f"all-reduce per step        {count['all_reduce']:,.0f} bytes in {count['all_reduces']:.0f}")
    peaks = FLOPS.value, MEMORY.value, NETWORK.value
    if None in peaks:
        return
    print(f"\nmodel, not measured; {SHARE.value:.0%} of the peaks\n\n| devices | images/s | hours | device hours |")
    print("|---|---|---|---|")
    for n in (1, 8, 32, 128):
        rate = n * PER_DEVICE.value / seconds(count, n, *peaks, SHARE.value)
        hours = IMAGES.value * EPOCHS.value / rate / 3600
        print(f"| {n} | {rate:,.0f} | {hours:,.2f} | {n * hours:,.1f} |")


if __name__ == "__main__":
    app.run(main)
