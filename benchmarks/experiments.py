"""The paper's comparisons, redone: several networks, several seeds, one table.

    python benchmarks/experiments.py rotation                 # Table 1: upright, rotated, searched; minutes per row
    python benchmarks/experiments.py capacity --seeds 1       # Figure 4: latent sizes
    python benchmarks/experiments.py small --seeds 3          # 1,000, 3,000 and 12,000 training digits

Every row is a run of `train.py` with its settings in `ROWS`, in its own folder under `--root`; started again, the
runs that are there are not repeated. Each is measured on the same rotated test digits, without and with search. The
table gives means over the seeds and the standard deviation between them: J in nats (z sampled), and lower bounds on
log p(x), which pay for the pose.
"""

import argparse
import json
import pathlib
import statistics
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import eval as evaluation
import train
from avae.config import default
from avae.tables import find

LIGHT = {"evaluation.n_exhaustive": 1, "evaluation.n_angles": 32, "evaluation.n_curve": 1, "evaluation.curve_step": 180}
PLAIN = {"train.search.enabled": False}
ROWS: dict[str, dict[str, dict[str, Any]]] = {
    "rotation": {
        "VAE, trained upright": PLAIN | {"data.pose": "upright", "data.test_pose": "fixed"},
        "VAE, trained on rotated digits": PLAIN,
        "AVAE, searched in training": {},
    },
    "capacity": {
        f"{name}, {latent} latents": settings | {"model.latent": latent}
        for latent in (2, 4, 8, 16, 32, 64)
        for name, settings in (("VAE", PLAIN), ("AVAE", {}))
    },
    "small": {
        f"{name}, {n:,} digits": settings | {"data.n_train": n}
        for n in (1000, 3000, 12_000)
        for name, settings in (("VAE", PLAIN), ("AVAE", {}))
    },
}
COLUMNS = {
    "J": "loss.avae.no_search.sampled.mean",
    "J, search": "loss.avae.search.sampled.mean",
    "bound without poses": "bound.avae.no_search.mean",
    "bound with poses": "bound.avae.search.mean",
}


def measure(settings: dict[str, Any], seed: int, epochs: int, workdir: pathlib.Path) -> dict[str, float]:
    """One run, from training to the numbers of `COLUMNS`."""
    if not (workdir / "results.json").exists():
        config = default()
        own = {"train.seed": seed, "train.epochs": epochs, "evaluation.baseline_epochs": 0}
        config.update_from_flattened_dict(LIGHT | own | settings)
        train.fit_config(config, workdir)
        evaluation.run(workdir)
    results = json.loads((workdir / "results.json").read_text())
    return {name: find(results, path) for name, path in COLUMNS.items()}


def cell(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=ROWS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=30, help="of the AVAE; a plain VAE is given twice as many")
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path("runs/experiments"))
    args = parser.parse_args()
    table = {}
    for row, settings in ROWS[args.experiment].items():
        epochs = args.epochs * (2 if PLAIN.items() <= settings.items() else 1)
        folder = args.root / args.experiment / row.replace(",", "").replace(" ", "_")
        runs = [measure(settings, seed, epochs, folder / f"{epochs}_{seed}") for seed in range(args.seeds)]
        table[f"{row}, {epochs} epochs"] = [cell([run[name] for run in runs]) for name in COLUMNS]
    print("| network | " + " | ".join(COLUMNS) + " |\n|" + "---|" * (len(COLUMNS) + 1))
    for row, cells in table.items():
        print(f"| {row} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
