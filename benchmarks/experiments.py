"""The paper's comparisons, redone: several networks, several seeds, one table.

    python benchmarks/experiments.py rotation                 # Table 1: upright, rotated, searched; minutes per row
    python benchmarks/experiments.py rotation --loss paper    # the same with the published code's loss
    python benchmarks/experiments.py capacity --seeds 1       # Figure 4: latent sizes and widths; writes capacity.png
    python benchmarks/experiments.py small --seeds 3          # 1,000, 3,000 and 12,000 training digits

Every network is a run of `train.py` in its own folder under `--root`; started again, the runs that are there are not
repeated. Each is measured on the same rotated test digits, without or with search as its row in `ROWS` says. The table
gives means over the seeds and the standard deviation between them: J (z sampled), the lower bound on log p(x), which
pays for the pose, and the number of weights. A plain VAE is given twice as many epochs as an AVAE unless
`--plain_epochs` says otherwise.
"""

import argparse
import functools
import json
import math
import operator
import pathlib
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from avae import run
from avae.config import default, experiment
from avae.report import figures

LIGHT = {"evaluation.n_exhaustive": 1, "evaluation.n_angles": 32, "evaluation.n_curve": 1, "evaluation.curve_step": 180}
PLAIN = {"train.search.enabled": False}
UPRIGHT = PLAIN | {"data.pose": "upright", "data.test_pose": "fixed"}
FULL = 12_000  # training digits, of which `--epochs` are epochs: with fewer there are more epochs, and as many steps


class Row(NamedTuple):
    """What is trained (`network` names its folder), and whether it is measured with "search" or with "no_search"."""

    network: str
    settings: dict[str, Any]
    way: str


def vae(network: str, settings: dict[str, Any]) -> Row:
    """A plain VAE, trained and measured without search."""
    return Row(network, PLAIN | settings, "no_search")


def avae(network: str, settings: dict[str, Any]) -> Row:
    """A network trained and measured with search."""
    return Row(network, settings, "search")


def sized(kind: Any, latent: int, width: int) -> Row:
    """A network of one size."""
    return kind(f"{kind.__name__}_{latent}_{width}", {"model.latent": latent, "model.hidden": (width, width)})


ROWS: dict[str, dict[str, Row]] = {
    "rotation": {
        "VAE, trained upright": Row("vae_upright", UPRIGHT, "no_search"),
        "VAE, trained on random rotations": vae("vae_random", {}),
        "AVAE upright: the first network, with search": Row("vae_upright", UPRIGHT, "search"),
        "AVAE random: the second network, with search": Row("vae_random", PLAIN, "search"),
        "AVAE, searched in training": avae("avae", {}),
    },
    "capacity": {
        f"{kind.__name__.upper()}, {latent} latents, width {width}": sized(kind, latent, width)
        for kind, widths in ((vae, (256, 1024)), (avae, (64, 256)))
        for width in widths
        for latent in (2, 8, 32, 64)
    },
    "small": {
        f"{kind.__name__.upper()}, {n:,} digits": kind(f"{kind.__name__}_{n}", {"data.n_train": n})
        for n in (1000, 3000, FULL)
        for kind in (vae, avae)
    },
}
NAMES = {"VAE": "plain VAE", "AVAE": "AVAE"}  # in figures
COLUMNS = {"J": "loss.avae.{}.sampled.mean", "bound": "bound.avae.{}.mean"}


def measure(settings: dict[str, Any], workdir: pathlib.Path) -> dict[str, Any]:
    """One run, from training to its results."""
    path = workdir / "results.json"
    if not path.exists():
        config = default()
        config.update_from_flattened_dict(LIGHT | {"evaluation.baseline_epochs": 0} | settings)
        run.fit_config(config, workdir)
        run.report(workdir)
    return json.loads(path.read_text())


def training(row: Row, args: argparse.Namespace) -> dict[str, Any]:
    """The settings of a row's training that the command line decides."""
    plain = PLAIN.items() <= row.settings.items()
    epochs = (args.plain_epochs or 2 * args.epochs) if plain else args.epochs
    settings = {"train.epochs": round(epochs * FULL / row.settings.get("data.n_train", FULL))}
    settings |= {"likelihood.name": args.loss, "data.n_test": args.n_test, "evaluation.n_bound": args.n_bound}
    return settings | ({} if plain else {"train.search_every": args.search_every})


def weights_of(row: Row) -> int:
    """The number of weights of a row's network."""
    config = default()
    config.update_from_flattened_dict(row.settings)
    shapes = jax.eval_shape(experiment(config).model.init, jax.random.key(0))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def find(run: Mapping[str, Any], path: str) -> Any:
    """What stands in results.json at `path`, keys joined by dots."""
    return functools.reduce(operator.getitem, path.split("."), run)


def cell(values: Sequence[float]) -> str:
    """Mean and standard deviation over the seeds."""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{spread}"


def capacity(rows: Mapping[str, Row], bounds: Mapping[str, Sequence[float]], path: pathlib.Path) -> None:
    """Draws the bounds against the number of latents, a line for each kind and width."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for name, row in rows.items():
        kind, _, width = name.split(", ")
        point = (row.settings["model.latent"], statistics.fmean(bounds[name]))
        lines.setdefault(f"{NAMES[kind]}, {width}", []).append(point)
    figures.bound_against_latents(lines).savefig(path)


def main() -> None:
    """Flags to a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=ROWS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=30, help="of the AVAE, in 12,000 images")
    parser.add_argument("--plain_epochs", type=int, help="of a plain VAE; default: twice as many")
    parser.add_argument("--search_every", type=int, default=1, help="epochs between full searches, of the AVAE")
    parser.add_argument("--loss", choices=("bernoulli", "paper"), default="bernoulli")
    parser.add_argument("--n_test", type=int, default=2000)
    parser.add_argument("--n_bound", type=int, default=500)
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path("runs/experiments"))
    args = parser.parse_args()
    rows, root = ROWS[args.experiment], args.root / f"{args.experiment}_{args.loss}"
    values: dict[str, dict[str, list[float]]] = {}
    for name, row in rows.items():
        settings = row.settings | training(row, args)
        folders = [root / f"{row.network}_{settings['train.epochs']}_{seed}" for seed in range(args.seeds)]
        runs = [measure(settings | {"train.seed": seed}, folder) for seed, folder in enumerate(folders)]
        columns = {
            column: path.format(row.way) for column, path in COLUMNS.items() if find(runs[0], path.split(".")[0])
        }
        values[name] = {column: [find(run, path) for run in runs] for column, path in columns.items()}
        values[name]["epochs"] = [settings["train.epochs"]]
    head = list(next(iter(values.values())))
    print("| network | " + " | ".join(head) + " | weights |\n|" + "---|" * (len(head) + 2))
    for name, found in values.items():
        epochs = f"{found.pop('epochs')[0]:g}"
        print(f"| {name} | {' | '.join([*map(cell, found.values()), epochs])} | {weights_of(rows[name]):,} |")
    if args.experiment == "capacity" and args.loss == "bernoulli":
        capacity(rows, {name: found["bound"] for name, found in values.items()}, root / "capacity.png")


if __name__ == "__main__":
    main()
