"""Searches for the pose of a given VAE: avae beside five that were published, on one VAE and one loss, passes counted.

    git clone https://github.com/jw9730/tied && pip install torch bayesian-optimization
    PYTHONPATH=benchmarks python benchmarks/rivals/tied.py --tied CHECKOUT [--n 512] [--minutes 2] [--seeds 3]

The checkout ("Inverting Data Transformations via Diffusion Sampling", arXiv 2602.08267; no licence, so it is only run)
has LieLAC, kinetic Langevin, TIED, FoCal and ITS behind one interface, each used with the settings of its file
configs/affnist/vae_ar_*.yaml. One MLP VAE is trained by avae on upright digits; its weights are given to PyTorch. Test
digits are at affine poses, of affNIST's ranges (20 degrees, scales to 1.2, shear to 0.2, shifts to 0.2 half-widths) and
of the full range of `avae.Affine()`, and upright, where every gain of a search that ends above the identity is harm.

Energies: "J", the loss of avae, which compares in the frame of the image; "theirs", 0.1 (squared error + KL) in the
canonical frame plus the square of what leaves the frame, without their autoregressive term, whose network belongs to
another VAE. ITS sees canonical images alone, so its "J" is the VAE's own loss of them. Reported, whatever was searched:
J at the pose found, the accuracy of one classifier (an MLP that has seen upright digits) on the canonical images,
forward passes of the VAE for each image (a gradient counts 3), and processor seconds. `--shares` runs each rival with
so much of its hypotheses or steps; the figure shows J against passes.
"""

import argparse
import dataclasses
import importlib
import inspect
import math
import re
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from baselines import aligned, described, plain, provenance, trained
from matplotlib.figure import Figure
from protocol import facts, flags, save
from sklearn.neural_network import MLPClassifier
from stand_ins import without

import avae
from avae.data import dataset
from avae.data.posing import posed
from avae.report.page import environment
from avae.settings import plan

RIVALS = ("lielac", "langevin", "diffusion", "focal", "its")
LAWS = {
    "affNIST's ranges": avae.Affine(max_angle=math.radians(20), max_scale=1.2, max_shear=0.2),
    "full range": avae.Affine(),
    "upright": None,
}
OURS: dict[str, Any] = {"default": None, "fewer starts": {"n_starts": 128, "top_k": 4, "n_refined": 2, "n_steps": 6}}
HARM = 0.01  # nats by which a search must be above the identity to have done harm


class Ground(NamedTuple):
    """What all searches share: the VAE in both forms, the classifier, and images with their labels by law of poses."""

    params: avae.Params
    weights: Any
    classifier: MLPClassifier
    images: dict[str, np.ndarray]
    labels: np.ndarray


def ground(n: int, minutes: float, seed: int) -> Ground:
    """The VAE, trained on upright digits for so many minutes of a processor, and `n` test digits for each law."""
    import torch_reference

    upright = dataset.load(dataset.Data(pose="as_is", n_train=12_000, n_test=n, seed=seed))
    train, test = upright.train, upright.test
    task = described(train.images, "affine", mirror=False, latent=16, seed=seed)
    params = trained(plain(task), train.images, minutes).params
    model = MLPClassifier((128,), max_iter=8, random_state=seed, early_stopping=False)
    classifier = model.fit(train.images.reshape(len(train.images), -1), train.labels)
    images = {}
    for name, law in LAWS.items():
        images[name] = test.images
        if law is not None:
            poses = jax.vmap(law.sample)(jax.random.split(jax.random.key(seed), n))
            images[name] = np.asarray(posed(test.images, poses, law, None, (0.0,)))
    return Ground(params, torch_reference.load(params.weights), classifier, images, test.labels)


class Losses:
    """J and the energies in PyTorch, of pull maps [B, 2, 3] as `avae.warp` takes them; counts what is evaluated."""

    def __init__(self, weights: Any) -> None:
        import torch
        import torch_reference

        self.passes, self._torch, self._of, self._weights = 0, torch, torch_reference, weights

    def j(self, pull: Any, x: Any) -> Any:
        """J [B] in nats of images x [B, 1, H, W], z at the posterior mean: `avae.objective` of any affine pose."""
        torch = self._torch
        canonical = self.warp(x, pull)
        mean, kl = self._decoded(canonical, pull.requires_grad)
        back = torch.inverse(pull[:, :, :2])
        mean = self.warp(mean, torch.cat([back, -back @ pull[:, :, 2:]], dim=2)).clamp(1e-4, 1 - 1e-4)
        return self._entropy(mean, x) + kl

    def own(self, canonical: Any, gradient: bool = False) -> Any:
        """The VAE's own loss [B] of canonical images, in nats."""
        mean, kl = self._decoded(canonical, gradient)
        return self._entropy(mean.clamp(1e-4, 1 - 1e-4), canonical) + kl

    def theirs(self, pull: Any, x: Any, boundary: bool = True) -> Any:
        """0.1 (squared error + KL) of the canonical image and what leaves the frame, as their energies have them."""
        canonical = self.warp(x, pull) if boundary else x
        mean, kl = self._decoded(canonical, boundary and pull.requires_grad)
        energy = 0.1 * (((mean - canonical) ** 2).flatten(1).sum(1) + kl)
        if not boundary:
            return energy
        side = x.shape[-1]  # their units: see `Rivals._pull`
        scaled = pull * self._torch.tensor([1.0, 1.0, side / (side - 1)])
        grid = self._torch.nn.functional.affine_grid(scaled, list(x.shape), align_corners=True)
        return energy + (grid.abs() - 1).relu().pow(2).mean(dim=[1, 2, 3])

    def warp(self, x: Any, pull: Any) -> Any:
        """Images [B, 1, H, W] read at pull maps [B, 2, 3]."""
        functional = self._torch.nn.functional
        grid = functional.affine_grid(pull, list(x.shape), align_corners=False)
        return functional.grid_sample(x, grid, padding_mode="zeros", align_corners=False)

    def _decoded(self, canonical: Any, gradient: bool) -> tuple[Any, Any]:
        self.passes += len(canonical) * (3 if gradient else 1)
        mu, logvar = self._of.encode(self._weights["encoder"], canonical)
        mean = self._of.decode(self._weights["decoder"], mu, canonical.shape).sigmoid()
        return mean, 0.5 * (mu**2 + logvar.exp() - logvar - 1).sum(1)

    def _entropy(self, mean: Any, x: Any) -> Any:
        return self._torch.nn.functional.binary_cross_entropy(mean, x, reduction="none").flatten(1).sum(1)


class Rivals:
    """The five searches of the user's checkout, as functions from images [n, 1, H, W] to pull maps [n, 2, 3]."""

    def __init__(self, checkout: str, losses: Losses, classifier: MLPClassifier) -> None:
        import torch
        import yaml

        without("torchvision", "torchvision.models", "torchvision.transforms", "torchvision.transforms.functional")
        sys.path.insert(0, checkout)
        self._torch, self._yaml, self._checkout, self._losses = torch, yaml, checkout, losses
        self._source = {
            name: importlib.import_module(f"src.{name}")
            for name in ("groups", "energies", "group_sampler", "group_optimizer", "utils.ITS.search")
        }
        importlib.import_module("src.utils.ITS.transform").identity.__defaults__ = (1, "cpu", False)  # not "cuda"
        self._layers = [torch.tensor(a, dtype=torch.float32) for a in (*classifier.coefs_, *classifier.intercepts_)]

    def search(self, name: str, energy: str, share: float) -> Callable[[Any], Any]:
        """One of `RIVALS` as published, with so much of its hypotheses (of FoCal and ITS: of the poses it tries)."""
        with open(f"{self._checkout}/configs/affnist/vae_ar_{name}.yaml") as file:
            told = self._yaml.safe_load(file)
        if name == "its":
            return self._its(told, energy, share)
        for key in ("init_points", "n_iter") if name == "focal" else ("num_hypothesis",):
            told[key] = max(1, round(told[key] * share))
        told |= {"opt_range": (told.get("opt_range_lower"), told.get("opt_range_upper")), "verbose": False}
        cls = {
            "lielac": self._source["group_optimizer"].LieLACOptimizer,
            "focal": self._source["group_optimizer"].FoCalOptimizer,
            "langevin": self._source["group_sampler"].EnergyKineticLangevinSampler,
            "diffusion": self._source["group_sampler"].EnergyDiffusionSampler,
        }[name]
        asked = set(inspect.signature(cls).parameters) - {"energy"}
        outer = cls(self._energy(energy), **{key: told[key] for key in asked if key in told})
        group = outer.group
        return lambda x: self._pull(group.inverse(outer(x, None)), x.shape[-1])

    def _energy(self, which: str) -> Any:
        losses, pull = self._losses, self._pull

        class Shared(self._source["energies"].Energy):
            def forward(self, g_inv: Any, x: Any, y: Any) -> Any:
                return getattr(losses, which)(pull(g_inv.float(), x.shape[-1]), x)

        return Shared(self._source["groups"].ImageAffine(), require_label=False)

    def _pull(self, g: Any, side: int) -> Any:
        """Their matrices [B, 3, 3] have -1 and 1 at the centres of the outermost pixels; ours at their outer edges."""
        inside = self._torch.tensor([1.0, 1.0, (side - 1) / side])
        return g[:, :2] * inside

    def _its(self, told: dict[str, Any], energy: str, share: float) -> Callable[[Any], Any]:
        torch, losses, layers = self._torch, self._losses, self._layers

        class Classifier(torch.nn.Module):
            def forward(self, x: Any) -> Any:
                (first, last), (one, two) = layers[:2], layers[2:]
                return (x.flatten(1) @ first + one).relu() @ last + two

        class Alternative:
            def inner_forward(self, x: Any, y: Any) -> Any:
                return losses.own(x) if energy == "j" else losses.theirs(None, x, boundary=False)

        search = self._source["utils.ITS.search"].InverseTransformationSearch(
            Classifier(), its_mode=told["its_mode"], n_samples=max(4, round(told["n_samples"] * share)),
            n_hypotheses=told["n_hypotheses"], mc_steps=1, change_of_mind=told["change_of_mind"],
            en_unique_class_condition=told["en_unique_class_condition"], alternative_energy=Alternative(),
        )  # fmt: skip

        def run(x: Any) -> Any:
            search.infer(x)
            scores = np.stack(search.history["score"]).max(-1).sum(0)  # [n, hypotheses], as it orders them itself
            return search.T[torch.arange(len(x)), torch.tensor(scores.argmax(1))][:, :2]

        return run


def compared(args: argparse.Namespace, seed: int) -> list[dict[str, Any]]:
    """One row for each search, energy, share and law of poses."""
    import torch

    torch.manual_seed(seed)
    shared = ground(args.n, args.minutes, seed)
    losses, rows = Losses(shared.weights), []
    rivals = Rivals(args.tied, losses, shared.classifier) if args.tied else None

    def row(law: str, method: str, pull: np.ndarray, passes: float, seconds: float) -> None:
        x = torch.tensor(np.moveaxis(shared.images[law], -1, 1))
        with torch.no_grad():
            matrix = torch.tensor(np.float32(pull))
            j, identity = losses.j(matrix, x), losses.j(torch.eye(3)[None, :2].repeat(len(x), 1, 1), x)
            canonical = losses.warp(x, matrix).numpy().reshape(len(x), -1)
        harm = (j - identity).numpy()
        found = {"seed": seed, "poses": law, "method": method, "J": float(j.mean()), "passes": passes}
        found["accuracy"] = float(np.mean(shared.classifier.predict(canonical) == shared.labels))
        found |= {"harmed": float(np.mean(harm > HARM)), "worst harm": float(harm.max()), "seconds": seconds}
        rows.append(found)
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)

    for law, images in shared.images.items():
        still = np.tile(np.eye(3)[:2], (args.n, 1, 1))
        row(law, "no search", still, 1, 0.0)
        for name, search in OURS.items():
            held = plan(shared.params.model, search).search
            params = shared.params.replace(model=dataclasses.replace(shared.params.model, search=held))
            aligned(params, images)  # compiles
            start = time.process_time()
            found = aligned(params, images)
            row(law, f"avae, {name}", found.matrix, passes_of(held), time.process_time() - start)
            worst = float(np.abs(rows[-1]["J"] - found.loss.mean()))
            if worst > 0.02:
                raise RuntimeError(f"PyTorch and JAX disagree on the mean of J by {worst:.3g} nats")
        x = torch.tensor(np.moveaxis(images, -1, 1))
        for name in RIVALS if rivals else ():
            for energy in args.energies:
                for share in args.shares:
                    losses.passes, start = 0, time.process_time()
                    with torch.no_grad():
                        pull = rivals.search(name, energy, share)(x)
                    took, count = time.process_time() - start, losses.passes / args.n
                    whole = f"{name}, {energy}" + (f", {share:g} of it" if share < 1 else "")
                    row(law, whole, pull.detach().numpy(), count, took)
    return rows


def passes_of(search: avae.Search) -> int:
    """Forward passes for each image; a pass with the six tangents of an affine pose counts as 7."""
    rescored = 3 * search.top_k + 1
    return search.n_starts + rescored + search.top_k * sum(search.n_local) + search.n_refined * 7 * (search.n_steps + 1)


def drawn(rows: list[dict[str, Any]]) -> Figure:
    """J at the pose found against forward passes, one panel for each law of poses."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for ax, law in zip(figure.subplots(1, len(LAWS)), LAWS, strict=True):
        of = [row for row in rows if row["poses"] == law]
        for number, method in enumerate(dict.fromkeys(re.sub(r", [\d.]+ of it$", "", row["method"]) for row in of)):
            points = sorted((row["passes"], row["J"]) for row in of if row["method"].startswith(method))
            ax.plot(*zip(*points, strict=True), "o-" if "avae" in method else "s--", label=method, color=f"C{number}")
        ax.set(xscale="log", xlabel="forward passes for each image", title=law)
    figure.axes[0].set_ylabel("J, nats")
    figure.axes[0].legend(fontsize=6)
    return figure


def main() -> None:
    parser = flags(__doc__)
    parser.add_argument("--tied", help="folder of the checkout; without it only our own rows")
    parser.add_argument("--n", type=int, default=512, help="digits for each law of poses")
    parser.add_argument("--minutes", type=float, default=2.0, help="of a processor, to train the VAE")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--energies", nargs="+", choices=("j", "theirs"), default=["j", "theirs"])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.05, 0.25, 1.0])
    args = parser.parse_args()
    rival = args.tied and provenance(args.tied)
    rows = [row for seed in range(args.seeds) for row in compared(args, seed)]
    columns = ("J", "passes", "accuracy", "harmed", "worst harm", "seconds")
    where = environment()
    lines = [f"{args.n} digits for each law of poses, {args.seeds} seeds (means). {rival or 'Rivals: not run.'}", ""]
    lines += [f"| poses | method | {' | '.join(columns)} |", "|" + "---|" * (len(columns) + 2)]
    for law, method in dict.fromkeys((row["poses"], row["method"]) for row in rows):
        of = [row for row in rows if (row["poses"], row["method"]) == (law, method)]
        means = (f"{np.mean([row[column] for row in of]):.4g}" for column in columns)
        lines.append(f"| {law} | {method} | {' | '.join(means)} |")
    result = {"rows": rows, "rival": rival, "environment": where, "args": f"{args}"}
    save(args.out, "rival_tied", result, "\n".join(["# Searches", "", facts(where), "", *lines]) + "\n")
    drawn(rows).savefig(args.out / "searches.png", dpi=120)


if __name__ == "__main__":
    main()
