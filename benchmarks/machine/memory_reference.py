"""Peak memory of `avae.align` against the PyTorch reference: the same weights and images, each in a process of its own.

    pip install -e '.[bench]'
    PYTHONPATH=benchmarks python benchmarks/machine/memory_reference.py  # MLP 28x28, batches of 64 and 512; Linux

Each process imports, makes its weights and searches one image, compiles where it has to, and gives free memory back.
What is resident then is the base; the peak during one search of the whole batch, above it, is the row. PyTorch is given
the batch in parts of 64, which is how `benchmarks/align.py` times it, and whole. What compiling takes stands apart.
Results go to `--out` as JSON and Markdown.
"""

import ctypes
import multiprocessing
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from align import CHUNK, fresh
from protocol import facts, flags, save

import avae
from avae.report.page import environment

STATUS, RESET = pathlib.Path("/proc/self/status"), pathlib.Path("/proc/self/clear_refs")
CASES = [("avae", 0), ("PyTorch, in parts", CHUNK[avae.MLP]), ("PyTorch, whole", 0)]
Search = Callable[[np.ndarray], Any]


def kilobytes(name: str) -> int:
    """VmRSS (resident) or VmHWM (its peak since the last reset) of this process."""
    (line,) = [line for line in STATUS.read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1])


def settle() -> int:
    """Gives free memory back, forgets the peak, and says what is resident, in kilobytes."""
    ctypes.CDLL(None).malloc_trim(0)
    RESET.write_text("5")
    return kilobytes("VmRSS")


def of_avae(batch: int) -> tuple[Search, int]:
    """The default search of a batch, compiled, and the kilobytes at the worst moment of compiling."""
    params = fresh("mlp", 28)
    jax.block_until_ready(avae.align(params, np.zeros((1, 28, 28, 1), np.float32)))
    before = settle()
    shape = jax.ShapeDtypeStruct((batch, 28, 28, 1), np.float32)
    compiled = jax.jit(avae.align).lower(params, shape).compile()
    took = kilobytes("VmHWM") - before
    return lambda x: jax.block_until_ready(compiled(params, x)), took


def of_torch(part: int) -> tuple[Search, int]:
    """The reference's search, `part` images at a time, or all where `part` is 0."""
    import torch
    import torch_reference

    weights = torch_reference.load(fresh("mlp", 28).weights)

    def search(x: np.ndarray) -> Any:
        parts = torch.tensor(np.moveaxis(x, -1, 1)).split(part or len(x))
        return torch.cat([torch_reference.search(weights, images)[1] for images in parts])

    search(np.zeros((1, 28, 28, 1), np.float32))
    return search, 0


def measure(side: str, part: int, batch: int) -> dict[str, Any]:
    """One row, in megabytes; to be run in a process of its own."""
    search, compiling = of_avae(batch) if side == "avae" else of_torch(part)
    x = np.random.default_rng(0).random((batch, 28, 28, 1), np.float32)
    before = settle()
    search(x)
    peak = kilobytes("VmHWM") - before
    return {"side": side, "batch": batch, "megabytes": peak / 1024, "compiling_megabytes": compiling / 1024}


def with_ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each row with its share of what the reference takes for that batch, as it is timed."""
    reference = {row["batch"]: row["megabytes"] for row in rows if row["side"] == "PyTorch, in parts"}
    return [row | {"ratio": row["megabytes"] / reference[row["batch"]]} for row in rows]


def markdown(rows: list[dict[str, Any]], where: dict[str, Any]) -> str:
    lines = [
        "# Peak memory of a search, MLP 28x28",
        "",
        facts(where),
        "",
        "| side | batch | peak above the base, MB | of PyTorch's as timed | compiling, MB |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['side']} | {row['batch']} | {row['megabytes']:.1f} | {row['ratio']:.2f} "
        f"| {row['compiling_megabytes']:.0f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = flags(__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 512])
    args = parser.parse_args()
    if not sys.platform.startswith("linux"):
        sys.exit("error: peaks are read from /proc, which Linux has")
    context, rows = multiprocessing.get_context("spawn"), []
    for batch in args.batch:
        for case in CASES:
            with context.Pool(1) as pool:
                rows.append(pool.apply(measure, (*case, batch)))
            print(rows[-1], flush=True)
    rows, where = with_ratios(rows), environment()
    save(args.out, "memory_reference", {"environment": where, "rows": rows}, markdown(rows, where))


if __name__ == "__main__":
    main()
