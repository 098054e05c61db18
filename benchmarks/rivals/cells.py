"""Real cells at the orientations in which they were found: is a code without the pose worth more to a classifier?

    PYTHONPATH=benchmarks python benchmarks/rivals/cells.py --minutes 5 --seeds 3 [--n 650] [--o2vae CHECKOUT]

The 650 embedded outlines, two cell lines, three treatments. Each method makes codes of all of them without the labels:
AVAE (rigid poses and mirror images), a plain VAE of the same size, moments and then PCA, PCA of the pixels, and O2-VAE
where the folder of its checkout is given (see o2vae.py). A logistic regression of the standardised codes is then asked
for the cell line and for the treatment, five-fold. As many minutes of a processor for each network; 95 % intervals over
cells, of the mean over seeds; "ahead" is how much more often the AVAE is right, on the same cells.
"""

from typing import Any

import numpy as np
from baselines import aligned, described, encoded, plain, provenance, trained
from moments import pull_maps
from protocol import facts, flags, save
from scores import compared, reduced, told

import avae
from avae.data.sources import embedded
from avae.report.page import environment

ASKED = ("line", "treatment")
EVERY = 10  # epochs from one full search to the next: it takes as long as ten of the others


def cells(n: int, seed: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """`n` of the cells [n, 64, 64, 1] in [0, 1] in a random order, and what is asked about each."""
    stack, _ = embedded.read("cells")
    rows = np.random.default_rng(seed).permutation(len(stack.images))[:n]
    kinds = np.array([label.split(", ") for label in stack.labels[rows]])
    return stack.scale(stack.images[rows]), dict(zip(ASKED, kinds.T, strict=True))


def codes(images: np.ndarray, args: Any, seed: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Codes [N, z] by each method, and what each network took."""
    task = described(images, "rigid", mirror=True, latent=args.latent, seed=seed, search_every=EVERY)
    searched, vae = trained(task, images, args.minutes), trained(plain(task), images, args.minutes)
    straight = np.asarray(avae.warp(images, np.float32(pull_maps(images, mirror=True, centred=True))))
    found = {
        "avae": aligned(searched.params, images).latent,
        "plain VAE": encoded(vae.params, images),
        "moments, then PCA": reduced(straight, args.latent),
        "PCA": reduced(images, args.latent),
    }
    took = {name: f"{fit.epochs} epochs, {fit.minutes:.1f}" for name, fit in (("avae", searched), ("plain VAE", vae))}
    if args.o2vae:
        from o2vae import O2VAE  # needs PyTorch

        rival = O2VAE(args.o2vae, images.shape[1], seed)
        epochs, minutes = rival.fit(images, args.minutes)
        found["O2-VAE"], took["O2-VAE"] = rival.encode(images), f"{epochs} epochs, {minutes:.1f}"
    return found, took


def main() -> None:
    parser = flags(__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="of a processor, for each network")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--n", type=int, default=650, help="cells")
    parser.add_argument("--latent", type=int, default=16, help="numbers in a code, of O2-VAE its own 64")
    parser.add_argument("--o2vae", help="folder of a checkout of jmhb0/o2vae")
    args = parser.parse_args()
    rival, (images, kinds) = args.o2vae and provenance(args.o2vae), cells(args.n)
    right: dict[str, dict[str, list[np.ndarray]]] = {what: {} for what in ASKED}
    took: dict[str, str] = {}
    for seed in range(args.seeds):
        found, took = codes(images, args, seed)
        for what, labels in kinds.items():
            for name, code in found.items():
                right[what].setdefault(name, []).append(told(code, labels, seed))
            print(what, {name: round(float(of[-1].mean()), 3) for name, of in right[what].items()}, flush=True)
    rows = {what: compared(of, "avae") for what, of in right.items()}
    often = {what: np.unique(labels, return_counts=True)[1].max() / args.n for what, labels in kinds.items()}
    where = environment()
    lines = [
        f"{args.n} cells, {args.seeds} seeds, {args.minutes:g} minutes of a processor for each network, codes of "
        f"{args.latent} numbers. The most common answer is right for {often['line']:.3f} (line) and "
        f"{often['treatment']:.3f} (treatment). {rival or 'O2-VAE: not run.'}",
        "",
        "| asked | method | accuracy | 95 % interval | avae is ahead by | 95 % interval | last seed, minutes |",
        "|---|---|---|---|---|---|---|",
    ]
    for what, of in rows.items():
        for name, row in of.items():
            value, ahead = f"{row['low']:.3f} to {row['high']:.3f}", f"{row['least']:+.3f} to {row['most']:+.3f}"
            fields = (what, name, f"{row['accuracy']:.3f}", value, f"{row['ahead']:+.3f}", ahead, took.get(name, ""))
            lines.append(f"| {' | '.join(fields)} |")
    result = {"rows": rows, "took": took, "rival": rival, "environment": where, "args": f"{args}"}
    save(args.out, "rival_cells", result, "\n".join(["# Cells", "", facts(where), "", *lines]) + "\n")


if __name__ == "__main__":
    main()
