"""O2-VAE (Burgess et al., Nature Communications 15:1022, 2024) and avae on O2-MNIST, with as much of a processor each.

    git clone https://github.com/jmhb0/o2vae && pip install torch e2cnn==0.2.3 torchgeometry==0.1.2 "numpy<2.3"
    PYTHONPATH=benchmarks python benchmarks/rivals/o2vae.py --o2vae CHECKOUT --minutes 25 --seeds 3 [--no_flips]

Digits at random rotations, half of them mirrored (not with --no_flips): training and test digits are those embedded in
avae, padded to 32 x 32 and warped once. O2-VAE is built and trained by its own code and config (`config_o2mnist`: 64
latents, beta 0.01, batches of 256, Adam at 1e-3, its augmentation); the loop around it is ours, because its own logs
to a service. The AVAE searches rotations and, with flips, mirror images; O2-VAE is invariant to both always.

Scores: purity of ten clusters of the training codes, by a mixture of Gaussians on 32 principal components as in its
notebook and by k-means; the same with one name for one cluster on test images (Hungarian); errors of the angle, which
O2-VAE does not give. Published, with 60,000 digits on a GPU: purity 0.818 (mixture), 0.737 (k-means).

Needs a virtual environment with avae and the packages above. `--epoch` times one epoch of O2-VAE and ends.
"""

import importlib
import math
import sys
import time
from typing import Any

import numpy as np
from baselines import aligned, angle_errors, described, encoded, plain, provenance, trained
from moments import pull_maps
from protocol import facts, flags, save
from scores import clustered, reduced
from stand_ins import with_older_numpy, without

import avae
from avae.data import dataset
from avae.data.posing import posed
from avae.report.page import environment

PUBLISHED = {"purity, mixture": 0.818, "purity, k-means": 0.737}
TRANSFORMS = ("torchvision.transforms", "torchvision.transforms.functional")  # one flip of it, and names in the config
SCORES = ("purity, mixture", "purity, k-means", "accuracy, mixture", "accuracy, k-means")


class O2VAE:
    """O2-VAE from the user's checkout: its networks, its loss, its config.

    Attributes:
      latent: numbers in a code.
    """

    def __init__(self, checkout: str, side: int, seed: int) -> None:
        import torch

        torch.manual_seed(seed)
        without("torchvision", "torchvision.utils", *TRANSFORMS, vflip=lambda x: torch.flip(x, [-2]))
        with_older_numpy("e2cnn.nn")
        importlib.import_module("skimage.transform._warps")  # which it reads without importing
        sys.path.insert(0, checkout)
        config = importlib.import_module("configs.config_o2mnist").config
        config.model.encoder.n_channels = 1
        config.model.decoder.cnn_dims = [192, 96, 96, *[48] * round(math.log2(side) - 3)]  # twice the side for each
        self._torch, self._config, self.latent = torch, config, config.model.zdim
        self._model = importlib.import_module("run").build_model_from_config(config)
        self._adam = torch.optim.Adam(self._model.parameters(), lr=config.optimizer.lr)

    def fit(self, images: np.ndarray, minutes: float) -> tuple[int, float]:
        """Trains for so many minutes of a processor, whole epochs, at least one; the epochs and minutes it took."""
        start, epochs, longest = time.process_time(), 0, 0.0
        while not epochs or time.process_time() - start + longest < 60 * minutes:
            begun = time.process_time()
            self.epoch(images)
            longest, epochs = max(longest, time.process_time() - begun), epochs + 1
        return epochs, (time.process_time() - start) / 60

    def epoch(self, images: np.ndarray) -> float:
        """One pass over images [N, side, side, 1], in their order as in the config; its mean loss."""
        torch, size, losses = self._torch, min(self._config.data.batch_size, len(images)), []
        self._model.train()
        for i in range(0, len(images) - 1, size):  # a batch of one image has no batch statistics
            x = self._augmented(torch.tensor(np.moveaxis(images[i : i + size], -1, 1)))
            self._adam.zero_grad()
            loss = self._model.loss(*self._model(x))["loss"] * len(x)  # as its own loop has it
            loss.backward()
            self._adam.step()
            losses.append(float(loss.detach()) / len(x))
        return float(np.mean(losses))

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Posterior means [N, latent]."""
        x = self._torch.tensor(np.moveaxis(images, -1, 1))
        return np.concatenate([self._model.embed_data(part).numpy() for part in x.split(250)])

    def _augmented(self, x: Any) -> Any:
        """RandomRotation(180) and RandomVerticalFlip(0.5) of the config, nearest pixels, without torchvision."""
        torch = self._torch
        angle = (torch.rand(len(x)) * 2 - 1) * math.pi
        flip = torch.where(torch.rand(len(x)) < 0.5, -1.0, 1.0)
        cos, sin, zero = angle.cos(), angle.sin(), torch.zeros(len(x))
        matrix = torch.stack([cos, -sin * flip, zero, sin, cos * flip, zero], 1).view(-1, 2, 3)
        grid = torch.nn.functional.affine_grid(matrix, list(x.shape), align_corners=False)
        return torch.nn.functional.grid_sample(x, grid, mode="nearest", align_corners=False)


def digits(n: int, flips: bool, seed: int) -> tuple[dataset.Splits, avae.Transform]:
    """O2-MNIST of embedded digits: `n` for training and up to 2,000 for tests, and the family of their poses."""
    family = avae.Mirrored(avae.Rotation()) if flips else avae.Rotation()
    upright = dataset.load(dataset.Data(pose="as_is", n_train=n, n_test=min(2000, n)))
    parts = []
    for number, part in enumerate((upright.train, upright.test)):
        padded = np.pad(part.images, ((0, 0), (2, 2), (2, 2), (0, 0)))
        poses = poses_of(family, len(padded), 2 * seed + number)
        parts.append(part._replace(images=np.asarray(posed(padded, poses, family, None, (0.0,))), poses=poses))
    return upright._replace(train=parts[0], test=parts[1]), family


def poses_of(family: avae.Transform, n: int, seed: int) -> np.ndarray:
    """`n` poses [n, size] from the prior of a family."""
    import jax

    return np.asarray(jax.vmap(family.sample)(jax.random.split(jax.random.key(seed), n)))


def compared(args: Any, seed: int) -> dict[str, dict[str, Any]]:
    """One row per method, for one seed."""
    splits, family = digits(args.n, args.flips, seed)
    train, test = splits.train, splits.test
    task = described(train.images, "rotation", mirror=args.flips, latent=args.latent, seed=seed)
    fits = {
        "avae": trained(task, train.images, args.minutes),
        "plain VAE": trained(plain(task), train.images, args.minutes),
    }
    found = {part: aligned(fits["avae"].params, of.images) for part, of in (("train", train), ("test", test))}
    vae = fits["plain VAE"].params
    pulls = [pull_maps(of.images, mirror=args.flips) for of in (train, test)]
    straight = [np.asarray(avae.warp(of.images, np.float32(p))) for of, p in zip((train, test), pulls, strict=True)]
    both = reduced(np.concatenate(straight), args.latent)
    codes = {
        "avae": (found["train"].latent, found["test"].latent),
        "plain VAE": (encoded(vae, train.images), encoded(vae, test.images)),
        "moments, then PCA": (both[: len(straight[0])], both[len(straight[0]) :]),
    }
    took = {name: {"epochs": fit.epochs, "minutes": fit.minutes} for name, fit in fits.items()}
    if args.o2vae:
        rival = O2VAE(args.o2vae, 32, seed)
        epochs, minutes = rival.fit(train.images, args.minutes)
        codes["O2-VAE"] = (rival.encode(train.images), rival.encode(test.images))
        took["O2-VAE"] = {"epochs": epochs, "minutes": minutes}
    angles = {"avae": found["test"].matrix, "moments, then PCA": pulls[1]}
    rows: dict[str, dict[str, Any]] = {}
    for name, (on_train, on_test) in codes.items():
        scores = {k: v for k, v in clustered(on_train, train.labels).items() if k.startswith("purity")}
        scores |= {k: v for k, v in clustered(on_test, test.labels).items() if k.startswith("accuracy")}
        errors = angle_errors(angles[name], test.poses, family, test.labels) if name in angles else {}
        rows[name] = scores | errors | took.get(name, {})
    return rows


def main() -> None:
    parser = flags(__doc__)
    parser.add_argument("--o2vae", help="folder of the checkout; without it only our own rows")
    parser.add_argument("--minutes", type=float, default=25.0, help="of a processor, for each network")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--n", type=int, default=12_000, help="training digits")
    parser.add_argument("--latent", type=int, default=16, help="of ours; O2-VAE has 64")
    parser.add_argument("--no_flips", dest="flips", action="store_false", help="no mirror images")
    parser.add_argument("--epoch", action="store_true", help="time one epoch of O2-VAE, and end")
    args = parser.parse_args()
    rival = args.o2vae and provenance(args.o2vae)
    if args.epoch:
        splits, _ = digits(args.n, args.flips, 0)
        start, model = time.process_time(), O2VAE(args.o2vae, 32, 0)
        loss = model.epoch(splits.train.images)
        print(
            f"{rival}: an epoch of {args.n} digits, {(time.process_time() - start) / 60:.2f} minutes, loss {loss:.2f}"
        )
        return
    seeds = [compared(args, seed) for seed in range(args.seeds)]
    where = environment()
    columns = (*SCORES, "median error", "epochs", "minutes")
    lines = [
        f"{args.n} digits, {'rotated and mirrored' if args.flips else 'rotated'}, {args.seeds} seeds (means), "
        f"{args.minutes:g} minutes of a processor for each network. {rival or 'O2-VAE: not run.'}",
        "",
        "| method | " + " | ".join(columns) + " |",
        "|" + "---|" * (len(columns) + 1),
    ]
    for name in seeds[0]:
        values = {column: [rows[name][column] for rows in seeds] for column in columns if column in seeds[0][name]}
        lines.append(
            f"| {name} | " + " | ".join(f"{np.mean(values[c]):.3g}" if c in values else "" for c in columns) + " |"
        )
    published = " | ".join(f"{PUBLISHED[c]}" if c in PUBLISHED else "" for c in columns)
    lines.append(f"| O2-VAE as published, 60,000 digits, a GPU | {published} |")
    result = {"seeds": seeds, "rival": rival, "environment": where, "args": f"{args}"}
    name = "rival_o2vae" if args.flips else "rival_o2vae_no_flips"
    save(args.out, name, result, "\n".join(["# O2-MNIST", "", facts(where), "", *lines]) + "\n")


if __name__ == "__main__":
    main()
