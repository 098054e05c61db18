"""Animals at random rotations, half of them mirrored: poses and kinds, found without either.

    pip download animal-mnist==0.4 --no-deps
    python tools/prepare_animals.py animal_mnist-0.4-py3-none-any.whl animals.npz
    PYTHONPATH=benchmarks python benchmarks/rivals/animals.py --data animals.npz --minutes 25 --seeds 3 [--n 8000]

Silhouettes of ten kinds of animals, 28 x 28. `--n` are for training, a quarter as many for tests. Moments lay the long
axis of a picture along x, which is not how an animal stands, sits or lies. Scores on test images: the median error of
the angle after the best offset of each kind ("either hand": animals face left as often as right, so that a thing and
its mirror image count as one; "in clusters": each of 30 clusters of the codes at an offset of its own, because a cat
that sits and one that walks need not stand alike), and k-means of the codes with one name for one cluster.
`animals.png` shows, for each cluster of the codes, what came in and the canonical form.
"""

import argparse
from typing import Any

import jax
import numpy as np
from baselines import aligned, angle_errors, described, encoded, plain, trained
from matplotlib.figure import Figure
from moments import pull_maps
from protocol import facts, flags, save
from scores import clusters, reduced

import avae
from avae.data import dataset
from avae.evaluation.metrics import assignment_accuracy
from avae.report.page import environment

FAMILY = avae.Mirrored(avae.Rotation())
EITHER, WITHIN = "median error, either hand", "in clusters, either hand"
COLUMNS = ("median error", EITHER, WITHIN, "k-means", "epochs", "minutes")
SHOWN, FINE = 8, 30  # images of a cluster in the figure; clusters within which one orientation may be expected


def animals(data: str, n: int, seed: int) -> dataset.Splits:
    """`n` animals for training and a quarter as many for tests, at known random poses."""
    return dataset.load(dataset.Data(data, transform=FAMILY, n_train=n, n_test=max(20, n // 4), seed=seed))


def compared(splits: dataset.Splits, args: argparse.Namespace, seed: int) -> tuple[dict[str, dict[str, float]], Any]:
    """One row per method, and what the AVAE found in the test images."""
    train, test = splits.train.images, splits.test
    task = described(train, "rotation", mirror=True, latent=args.latent, seed=seed)
    searched, vae = trained(task, train, args.minutes), trained(plain(task), train, args.minutes)
    found, pull = aligned(searched.params, test.images), pull_maps(test.images, mirror=True)
    upright = np.asarray(avae.warp(test.images, np.asarray(jax.vmap(FAMILY.inverse)(test.poses))))
    codes = {
        "avae": found.latent,
        "plain VAE": encoded(vae.params, test.images),
        "moments, then PCA": reduced(np.asarray(avae.warp(test.images, np.float32(pull))), args.latent),
        "PCA": reduced(test.images, args.latent),
        "PCA at the true poses": reduced(upright, args.latent),
    }
    rows: dict[str, dict[str, float]] = {}
    for name, code in codes.items():
        rows[name] = {"k-means": assignment_accuracy(clusters(code, 10)["k-means"], test.labels)}
    for name, matrix in {"avae": found.matrix, "moments, then PCA": pull}.items():
        fine = clusters(codes[name], FINE)["k-means"]
        rows[name] |= angle_errors(matrix, test.poses, FAMILY, test.labels)
        rows[name] |= {WITHIN: angle_errors(matrix, test.poses, FAMILY, fine)[EITHER]}
    for name, fit in {"avae": searched, "plain VAE": vae}.items():
        rows[name] |= {"epochs": fit.epochs, "minutes": fit.minutes}
    return rows, found


def drawn(images: np.ndarray, canonical: np.ndarray, codes: np.ndarray) -> Figure:
    """A row for each cluster of the codes: images as they came, and beside them their canonical forms."""
    of = clusters(codes, 10)["k-means"]
    figure = Figure(figsize=(SHOWN * 1.1, 5.6), layout="constrained")
    for ax, stack, title in zip(figure.subplots(1, 2), (images, canonical), ("as they came", "canonical"), strict=True):
        blank, rows = np.zeros_like(stack[0, ..., 0]), []
        for cluster in range(10):
            some = [stack[i, ..., 0] for i in np.flatnonzero(of == cluster)[:SHOWN]]
            rows.append(np.concatenate(some + [blank] * (SHOWN - len(some)), axis=1))
        ax.imshow(np.concatenate(rows), cmap="gray", vmin=0, vmax=1)
        ax.set(title=title, xticks=[], yticks=[])
        ax.set_ylabel("clusters of the codes")
    return figure


def main() -> None:
    parser = flags(__doc__)
    parser.add_argument("--data", required=True, help="the archive that tools/prepare_animals.py makes")
    parser.add_argument("--minutes", type=float, default=25.0, help="of a processor, for each network")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--n", type=int, default=8000, help="training images")
    parser.add_argument("--latent", type=int, default=16)
    args = parser.parse_args()
    seeds = []
    for seed in range(args.seeds):
        splits = animals(args.data, args.n, seed)
        rows, found = compared(splits, args, seed)
        seeds.append(rows)
        print(rows, flush=True)
        if seed == 0:
            args.out.mkdir(parents=True, exist_ok=True)
            drawn(splits.test.images, found.canonical, found.latent).savefig(args.out / "animals.png", dpi=100)
    where = environment()
    lines = [
        f"{args.n} animals, {args.seeds} seeds (means), {args.minutes:g} minutes of a processor for each network, "
        f"codes of {args.latent} numbers.",
        "",
        "| method | " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * (len(COLUMNS) + 1),
    ]
    for name in seeds[0]:
        means = (f"{np.mean([rows[name][c] for rows in seeds]):.3g}" if c in seeds[0][name] else "" for c in COLUMNS)
        lines.append(f"| {name} | {' | '.join(means)} |")
    result = {"seeds": seeds, "environment": where, "args": f"{args}"}
    save(args.out, "rival_animals", result, "\n".join(["# Animals", "", facts(where), "", *lines]) + "\n")


if __name__ == "__main__":
    main()
