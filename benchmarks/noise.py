"""Poses under noise, against the noise limit and other methods, on the same images in one process.

    python benchmarks/noise.py [--snr 0.5 0.1 0.03] [--n 4000] [--epochs 12] [--toy FOLDER]

Needs scikit-image. Particles of `particles.py`: errors of angles, each object at the offset that suits it best, beside
the Cramer-Rao limit and template matching with the true objects. With `--toy`, a folder with toy_projections.mrcs and
toy_truth.npz: relative angles of pairs of projections of one volume from nearly the same direction.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import drift
import jax.numpy as jnp
import mrcfile
import numpy as np
from moments import moments
from particles import Stack, shown
from protocol import facts, flags, save
from skimage.registration import phase_cross_correlation
from skimage.transform import rotate, warp_polar

import avae
from avae.config import default, experiment
from avae.evaluation import metrics
from avae.report.page import environment

ROUNDS = 3  # of phase correlation with the mean of what was aligned so far
COLUMNS = ("method", "median", "within 5", "within 15", "k-means", "seconds")


def phase_correlation(images: np.ndarray) -> np.ndarray:
    """Angles [N] against the mean picture, by correlation of polar pictures; the mean is taken anew each round."""
    reference, angle = images[0, ..., 0], np.zeros(len(images))
    for _ in range(ROUNDS):
        polar = warp_polar(reference)
        for i, image in enumerate(images[..., 0]):
            shift, _, _ = phase_cross_correlation(polar, warp_polar(image), normalization=None)
            angle[i] = math.radians(shift[0])
        turned = [rotate(image, -math.degrees(a)) for image, a in zip(images[..., 0], angle, strict=True)]
        reference = np.mean(turned, axis=0)
    return -angle


def oracle(images: np.ndarray, stack: Stack) -> tuple[np.ndarray, np.ndarray]:
    """Angles [N] and objects [N] by matching the true objects at all angles by degrees and all shifts."""
    side, reach = stack.side, math.ceil(stack.shift * stack.side / 2) + 1
    spectra = np.fft.rfft2(images[..., 0])
    best, angle, label = np.full(len(images), -np.inf), np.zeros(len(images)), np.zeros(len(images), int)
    for k in range(stack.objects):
        for turn in np.radians(np.arange(360.0)):
            picture = shown(stack, k, turn)
            picture = picture - picture.mean()
            scores = np.fft.irfft2(spectra * np.conj(np.fft.rfft2(picture)), s=(side, side))
            near = np.r_[-reach : reach + 1]
            score = scores[:, near][:, :, near].max((1, 2)).clip(0) / np.linalg.norm(picture)
            better = score > best
            best[better], angle[better], label[better] = score[better], -turn, k
    return angle, label


def compared(stack: Stack, epochs: int) -> list[dict[str, Any]]:
    """Errors of each method on the images held out."""
    task = drift.particles(stack.seed, stack.n, snr=stack.snr)
    truth = avae.Rigid()

    def errors(angle: np.ndarray) -> dict[str, float]:
        pull = np.concatenate([angle[:, None], np.zeros((len(angle), 2))], axis=1)
        error = metrics.rotation_errors(metrics.net_rotation(truth, pull, task.pose, truth), task.label)
        return {"median": float(np.median(error)), **{f"within {w}": float(np.mean(error < w)) for w in (5, 15)}}

    rows = [{"method": "Cramer-Rao limit", "median": task.limit}]
    start = time.perf_counter()
    angle, label = oracle(task.test, stack)
    told = metrics.assignment_accuracy(label, task.label)
    rows.append({"method": "template matching, true objects", **errors(angle), "k-means": told, **_took(start)})
    start = time.perf_counter()
    params, _ = drift.trained(task, epochs, {})
    found = drift.judged(task, params)
    named = {"median": "median", "within 5": "within_5", "within 15": "within_15", "k-means": "k_means"}
    rows.append(
        {"method": f"avae, {epochs} epochs", **{name: found[key] for name, key in named.items()}, **_took(start)}
    )
    rivals: dict[str, Callable[[np.ndarray], np.ndarray]] = {"moments": moments, "phase correlation": phase_correlation}
    for name, method in rivals.items():
        start = time.perf_counter()
        rows.append({"method": name, **errors(method(task.test)), **_took(start)})
    return [{"snr": stack.snr, "seed": stack.seed} | row for row in rows]


def _took(start: float) -> dict[str, float]:
    return {"seconds": time.perf_counter() - start}


def toy(folder: str, snr: float | None, epochs: int) -> list[dict[str, Any]]:
    """Relative angles of projections of nearly one direction, and how alike they are once turned."""
    with mrcfile.open(f"{folder}/toy_projections.mrcs", permissive=True) as file:
        clean = np.asarray(file.data, np.float64)
    rotation = np.load(f"{folder}/toy_truth.npz")["rotation"]
    noisy = clean if snr is None else clean + np.random.default_rng(0).normal(0, clean.std() / snr**0.5, clean.shape)
    x = noisy - noisy.mean((1, 2), keepdims=True)
    x = (x / x.std((1, 2), keepdims=True))[..., None].astype(np.float32)
    first, second = np.nonzero(np.triu(rotation[:, 2] @ rotation[:, 2].T > 0.995, 1))
    relative = rotation[first] @ np.swapaxes(rotation[second], 1, 2)
    true = np.arctan2(relative[:, 1, 0], relative[:, 0, 0])
    config = default()
    config.model.update(image_shape=x.shape[1:], latent=8, hidden=(256, 256))
    config.likelihood.name, config.data.name, config.data.n_train = "gaussian", "toy.mrcs", len(x)
    config.transform.update(name="rigid", max_shift=0.3)
    task = drift.Task(experiment(config), x, x, np.zeros((len(x), 3)), avae.Rigid(0.3), np.zeros(len(x), int))
    params, _ = drift.trained(task, epochs, {})
    angles = {
        "avae": np.asarray(avae.align(params, jnp.asarray(x)).alpha)[:, 0],
        "moments": moments(x),
        "phase correlation": phase_correlation(x),
    }
    rows = []
    for name, angle in {"unaligned": np.zeros(len(x)), **angles, "true": None}.items():
        between = true if angle is None else angle[first] - angle[second]
        apart = np.degrees(np.abs(np.angle(np.exp(1j * (between - true)))))
        alike = [_alike(clean[i], clean[j], t) for i, j, t in zip(first[::5], second[::5], between[::5], strict=True)]
        rows.append(
            {"snr": snr, "method": name, "median": float(np.median(apart)), "correlation": float(np.mean(alike))}
        )
    return rows


def _alike(a: np.ndarray, b: np.ndarray, theta: float) -> float:
    """Correlation of picture a with picture b turned by -theta."""
    return float(np.corrcoef(a.ravel(), rotate(b, -math.degrees(theta)).ravel())[0, 1])


def main() -> None:
    parser = flags(__doc__)
    parser.add_argument("--snr", type=float, nargs="*", default=[0.5, 0.1, 0.03])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--n", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--toy", default=None, help="folder of the toy projections; left out without it")
    parser.add_argument("--toy_snr", type=float, nargs="*", default=[1.0, 0.3, 0.1])
    parser.add_argument("--toy_epochs", type=int, default=100)
    args = parser.parse_args()
    stacks = [Stack(args.n, snr=snr, seed=seed) for snr in args.snr for seed in args.seeds]
    rows = [row for stack in stacks for row in compared(stack, args.epochs)]
    pairs = [row for snr in (None, *args.toy_snr) for row in toy(args.toy, snr, args.toy_epochs)] if args.toy else []
    lines = ["| SNR | seed | " + " | ".join(COLUMNS) + " |", "|" + "---|" * (len(COLUMNS) + 2)]
    for row in rows:
        cells = [row["method"], *(f"{row[name]:.3g}" if name in row else "" for name in COLUMNS[1:])]
        lines.append(f"| {row['snr']} | {row['seed']} | " + " | ".join(cells) + " |")
    if pairs:
        lines += ["", "| SNR | method | median error of relative angles | correlation |", "|---|---|---|---|"]
        lines += [
            f"| {r['snr'] or 'no noise'} | {r['method']} | {r['median']:.2f} | {r['correlation']:.2f} |" for r in pairs
        ]
    where = environment()
    text = f"# Poses under noise\n\n{facts(where)}\n\n" + "\n".join(lines) + "\n"
    save(args.out, "noise", {"particles": rows, "toy": pairs, "environment": where}, text)


if __name__ == "__main__":
    main()
