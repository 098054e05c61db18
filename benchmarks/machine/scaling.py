"""How the cost of `avae.align` grows with starts, batch size, image side and dimension of the group.

    PYTHONPATH=benchmarks python benchmarks/machine/scaling.py  # all sweeps
    PYTHONPATH=benchmarks python benchmarks/machine/scaling.py --sweep starts batch  # some of them

Each sweep changes one number and leaves the rest: 64 images of 28x28, rotations, 32 starts of which two are looked
around four times and refined by four Gauss-Newton steps. Weights and images are random: times are right, losses are
not. "Dimension" has families with one to six degrees of freedom, and in space, on volumes of 16^3, with three to
twelve, all with the same number of starts, so that the rest is what a tangent costs. All variants of a sweep take
turns; medians. The exponent is the slope of a line through log seconds against log of what changes, by least squares
over the whole range measured: 1 is linear. Results go to `--out` as JSON and Markdown.
"""

import dataclasses
import statistics
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from protocol import facts, flags, in_turns, save

import avae
from avae.report.page import environment
from avae.transforms import FAMILIES

SEARCH = avae.Search(n_starts=32, top_k=2, n_local=(4,), n_steps=4)


@dataclasses.dataclass(frozen=True)
class Case:
    """One point of a sweep: what is aligned, in which family, from how many starts."""

    starts: int = 32
    batch: int = 64
    side: int = 28
    family: str = "rotation"

    @property
    def dof(self) -> int:
        return FAMILIES[self.family]().dof

    def align(self) -> Callable[[], Any]:
        """A call of `avae.align` on random images with fresh weights, which waits for the poses."""
        transform = FAMILIES[self.family]()
        shape = (*(self.side,) * transform.dim, 1)
        params = avae.init(jax.random.key(0), avae.Model(networks=avae.MLP(image_shape=shape), transform=transform))
        x = np.random.default_rng(0).random((self.batch, *shape), np.float32)
        search = dataclasses.replace(SEARCH, n_starts=self.starts)
        return lambda: jax.block_until_ready(avae.align(params, x, search=search))


PLANE, SPACE = ("rotation", "rigid", "similarity", "affine"), ("rotation3d", "rigid3d", "similarity3d", "affine3d")
SWEEPS = {  # name: (what changes, cases)
    "starts": ("starts", [Case(starts=n) for n in (16, 32, 64, 128, 256)]),
    "batch": ("batch", [Case(batch=n) for n in (1, 8, 64, 256)]),
    "side": ("side", [Case(side=n) for n in (16, 28, 48, 80)]),
    "dimension": ("dof", [Case(family=name) for name in PLANE]),
    "dimension in space": ("dof", [Case(batch=8, side=16, family=name) for name in SPACE]),
}


def measure(name: str, repeats: int) -> dict[str, Any]:
    """The times of one sweep, and its exponent."""
    print(f"{name} ...", flush=True)
    changes, cases = SWEEPS[name]
    times = in_turns({case: case.align() for case in cases}, repeats)
    rows = [
        dataclasses.asdict(case)
        | {"dof": case.dof, "seconds": statistics.median(seconds), "fastest": min(seconds), "slowest": max(seconds)}
        for case, seconds in times.items()
    ]
    rows = [row | {"images_per_second": row["batch"] / row["seconds"]} for row in rows]
    values = [row[changes] for row in rows]
    return {
        "sweep": name,
        "changes": changes,
        "exponent": exponent(values, [row["seconds"] for row in rows]),
        "range": [min(values), max(values)],
        "rows": rows,
    }


def exponent(values: list[float], seconds: list[float]) -> float:
    """The p of seconds = c values^p, by least squares of the logarithms."""
    return float(np.polyfit(np.log(values), np.log(seconds), 1)[0])


def markdown(result: dict[str, Any]) -> str:
    lines = [
        "# How the cost of `avae.align` grows",
        "",
        facts(result["environment"]),
        f"MLP, fresh weights, {result['search']}; medians of {result['repeats']} (fastest-slowest).",
    ]
    for sweep in result["sweeps"]:
        low, high = sweep["range"]
        lines += [
            "",
            f"## {sweep['sweep'].capitalize()}: exponent {sweep['exponent']:.2f} from {low} to {high}",
            "",
            "| family | dof | starts | batch | side | ms | images/s |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in sweep["rows"]:
            same = " | ".join(str(row[key]) for key in ("family", "dof", "starts", "batch", "side"))
            seconds = [f"{1e3 * row[key]:.3g}" for key in ("seconds", "fastest", "slowest")]
            lines.append(f"| {same} | {seconds[0]} ({seconds[1]}-{seconds[2]}) | {row['images_per_second']:,.0f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = flags(__doc__)
    parser.add_argument("--sweep", choices=SWEEPS, nargs="+", default=list(SWEEPS))
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    result = {
        "environment": environment(),
        "search": f"search {SEARCH.n_starts}/{SEARCH.top_k}+{SEARCH.n_local}/{SEARCH.n_steps} {SEARCH.solver}",
        "repeats": args.repeats,
        "sweeps": [measure(name, args.repeats) for name in args.sweep],
    }
    save(args.out, "scaling", result, markdown(result))


if __name__ == "__main__":
    main()
