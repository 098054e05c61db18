"""What a training step costs: without search, with a full search, and from remembered poses (`train.search_every`).

    python benchmarks/train_step.py [--batch 128] [--repeats 5]

The main job's model and search on embedded digits, fresh weights, in one process; the three steps take turns, each for
20 batches at a time, and medians are printed. Results go to `--out` as JSON and Markdown.
"""

import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from protocol import facts, flags, save

from avae.config import default, experiment
from avae.data import dataset as data
from avae.report.page import environment
from avae.training import step as training

STEPS = 20


def sides(batch: int) -> dict[str, tuple[Any, int]]:
    """For each kind of step the experiment, and a step number at which it is taken."""
    config = default()
    config.train.batch_size = batch
    config.train.search_every = 4
    later = 9 * config.data.n_train // batch + 1  # a step of the tenth epoch of thirty, which goes by memory
    searched = experiment(config)
    config.train.search_every, config.train.search.enabled = 1, False
    return {
        "no search (plain VAE)": (experiment(config), 0),
        "full search": (searched, 0),
        "from memory": (searched, later),
    }


def seconds(described: Any, state: Any, images: np.ndarray, index: np.ndarray, number: int) -> tuple[float, Any]:
    """Time of `STEPS` steps, and the state after them, each taken as step `number`."""
    start = time.perf_counter()
    for _ in range(STEPS):
        state, metrics = training.train_step(
            state.replace(step=jnp.asarray(number, jnp.int32)), images, described, 1, index
        )
    jax.block_until_ready(metrics)
    return time.perf_counter() - start, state


def main() -> None:
    parser = flags(__doc__)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    taken = sides(args.batch)
    images = data.load(next(iter(taken.values()))[0].data).train.images[: args.batch]
    index = np.arange(args.batch)
    states = {name: training.init_state(described) for name, (described, _) in taken.items()}
    times: dict[str, list[float]] = {name: [] for name in taken}
    for repeat in range(args.repeats + 1):  # the first compiles
        for name, (described, number) in taken.items():
            took, states[name] = seconds(described, states[name], images, index, number)
            if repeat:
                times[name].append(took)
    rates = {name: STEPS * args.batch / statistics.median(values) for name, values in times.items()}
    rows = [
        {"step": name, "images_per_second": rate, "ratio": rate / rates["full search"]} for name, rate in rates.items()
    ]
    lines = ["| step | images/s | against full search |", "|---|---|---|"]
    lines += [f"| {row['step']} | {row['images_per_second']:,.0f} | {row['ratio']:.1f}x |" for row in rows]
    text = "\n".join(lines)
    where = environment()
    head = f"# Training step, batch {args.batch}\n\n{facts(where)}\n\n"
    save(args.out, "train_step", {"rows": rows, "environment": where}, f"{head}{text}\n")


if __name__ == "__main__":
    main()
