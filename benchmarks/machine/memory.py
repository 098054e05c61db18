"""Peak memory of `avae.align` on batches that do not fit its budget whole, and so go through in parts.

    # 64 volumes of 48^3 and 1,024 images of 128x128, default budget (2 GiB)
    PYTHONPATH=benchmarks python benchmarks/machine/memory.py

Every case runs in a process of its own; its peak is that of the process's resident memory less what was resident just
before the call: so it holds arguments' copies, results, and what the compiler takes. Results go to `--out`.
"""

import multiprocessing
import resource
import sys
import time

import jax
import numpy as np
from protocol import flags, save

import avae
from avae.report.page import environment
from avae.runtime.parts import budget

CASES = {
    "64 volumes of 48^3, rotation3d": (64, (48, 48, 48, 1), avae.Rotation3D()),
    "1,024 images of 128x128, rotation": (1024, (128, 128, 1), avae.Rotation()),
}
BUDGET = budget()
UNIT = 1 if sys.platform == "darwin" else 1024  # bytes per unit of ru_maxrss


def resident() -> int:
    """Peak resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT


def measure(case: str) -> dict:
    """One row: bytes and seconds of `align` on random images, compilation included."""
    n, shape, family = CASES[case]
    params = avae.init(jax.random.key(0), avae.Model(networks=avae.MLP(image_shape=shape), transform=family))
    x = np.random.default_rng(0).random((n, *shape), np.float32)
    before, start = resident(), time.perf_counter()
    jax.block_until_ready(avae.align(params, x).loss)
    seconds = time.perf_counter() - start
    return {"case": case, "bytes": resident() - before, "budget": BUDGET, "seconds": seconds}


def main() -> None:
    parser = flags(__doc__)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    rows = []
    for case in CASES:
        with context.Pool(1) as pool:
            rows.append(pool.apply(measure, (case,)))
    lines = ["| case | peak, GiB | budget, GiB | seconds |", "|---|---|---|---|"]
    for row in rows:
        peak, budget = (row[key] / 2**30 for key in ("bytes", "budget"))
        lines.append(f"| {row['case']} | {peak:.2f} | {budget:.2f} | {row['seconds']:.0f} |")
    table = "\n".join(lines)
    text = f"# Peak memory of `align`\n\n{table}\n"
    save(options.out, "memory", {"environment": environment(), "rows": rows}, text)


if __name__ == "__main__":
    main()
