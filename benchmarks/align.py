"""How fast `avae.align` is, and how well it does, against the paper's search in PyTorch on the same machine.

    pip install -e '.[bench]'
    python benchmarks/align.py                                # MLP 28x28, fresh weights: only times mean something
    python benchmarks/align.py --workdir runs/rot_mnist       # a trained run: losses mean something too
    python benchmarks/align.py --network conv --side 40 --images 64      # the paper's conv size
    python benchmarks/align.py --workdir runs/rot_mnist --exhaustive     # with the slowest preset as well

A trained run without a pose network, which the preset "fast" wants, is given one, distilled from `--distill` digits,
and kept in the file `--proposals`, if that is given, for the next time.

Both sides run in this process on the same images with the same weights, in turns, and medians over the repeats are
reported; before anything is timed, both must agree on J. Ratios are what counts, and only on a quiet machine: two
thread pools that compete with other jobs for cores suffer unequally. `taskset -c 0` gives each side one core.
Results go to `--out` as JSON and Markdown. The search is over rotations, of test digits at random orientations.
"""

import argparse
import dataclasses
import functools
import os
import pathlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from protocol import facts, flags, in_turns, save

import avae
from avae.data import dataset as data
from avae.report.page import environment
from avae.settings import plan

try:
    import torch
    import torch_reference
except ImportError:
    torch = None

COARSE = avae.Search(top_k=1, n_local=(), n_refined=1, n_steps=0)
CHUNK = {avae.MLP: 64, avae.Conv: 16}  # images that PyTorch searches at a time on CPUs, where more are slower
PRESETS = ("default", "fast", "paper", "exhaustive")
FORWARD, REFERENCE = "avae forward", "PyTorch search 32/8/20 Adam"


@dataclasses.dataclass(frozen=True)
class Side:
    """One thing to time: `losses` maps one batch of images [B, H, W, C] to J [B] and waits for it.

    Attributes:
      passes: forward passes per image by count (a gradient is 3, a pass with one tangent 2).
      forward: the side whose images/s is the unit of this side's measured passes.
    """

    name: str
    losses: Callable[[np.ndarray], np.ndarray]
    passes: int
    forward: str


def avae_sides(params: avae.Params, presets: Sequence[str]) -> list[Side]:
    forward = jax.jit(avae.objective)

    def align(name: str, search: avae.Search) -> Callable[[np.ndarray], np.ndarray]:
        asked = name if name in presets else search  # "fast" is more than its settings: a pose network proposes
        return lambda x: np.asarray(jax.block_until_ready(avae.align(params, x, search=asked)).loss)

    searches = {"coarse": COARSE} | {name: plan(params.model, name).search for name in presets}
    return [
        Side(FORWARD, lambda x: np.asarray(forward(params, x).total), 1, FORWARD),
        *(
            Side(
                f"avae.align {name} {describe_search(search)}",
                align(name if name in presets else search),
                passes(search, params),
                FORWARD,
            )
            for name, search in searches.items()
        ),
    ]


def describe_search(search: avae.Search) -> str:
    """Starts, how many are kept, how many tried around each, how many refined, steps, solver."""
    tried = "+".join(map(str, search.n_local or (0,)))
    counts = f"{search.n_starts}/{search.top_k}+{tried}/{search.n_refined}/{search.n_steps}"
    return f"{counts} {type(search.solver).__name__}"


def passes(search: avae.Search, params: avae.Params) -> int:
    """Forward passes per image of a search over one angle; a pass with its tangent counts as 2.

    A pass through the smaller twin counts by its share of the weights. `avae.align` adds about 3 for the rest of what
    it returns (`std`, `canonical`, `reconstruction`).
    """
    share, again = 1.0, 0
    if search.twin > 1:
        share, again = size(params.reduced(search.twin)) / size(params), 3 * search.top_k + 1
    adam = isinstance(search.solver, avae.Adam)
    refined = search.n_refined * (2 * search.n_steps + 1 if adam else 2 * (search.n_steps + 1))
    return round(search.n_starts * share + again + search.top_k * sum(search.n_local) + refined)


def size(params: avae.Params) -> int:
    """How many weights."""
    return sum(leaf.size for leaf in jax.tree.leaves(params.weights))


def torch_sides(params: avae.Params) -> list[Side]:
    device = torch_device()
    weights = torch_reference.load(params.weights, device)
    chunk = CHUNK[type(params.model.networks)]

    def forward(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return torch_reference.objective(weights, to_torch(x)).cpu().numpy()

    def search(x: np.ndarray) -> np.ndarray:
        parts = to_torch(x).split(chunk if device == "cpu" else len(x))
        return torch.cat([torch_reference.search(weights, part)[1] for part in parts]).cpu().numpy()

    return [
        Side("PyTorch forward", forward, 1, "PyTorch forward"),
        Side(REFERENCE, search, 32 + 8 * (20 * 3 + 1), "PyTorch forward"),
    ]


def torch_device() -> str:
    return "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"


def to_torch(x: np.ndarray) -> Any:
    return torch.tensor(np.moveaxis(x, -1, 1), device=torch_device())


def check_agreement(params: avae.Params, x: np.ndarray) -> float:
    """The largest difference in nats between the two sides' J, on the same weights, images and poses."""
    poses = jax.vmap(params.model.transform.sample)(jax.random.split(jax.random.key(0), len(x)))
    with jax.default_matmul_precision("highest"):  # accelerators round their inputs, to save time
        ours = np.asarray(avae.objective(params, x, poses).total)
    with torch.no_grad(), torch.backends.cudnn.flags(allow_tf32=False):
        weights = torch_reference.load(params.weights, torch_device())
        angles = torch.tensor(np.asarray(poses)[:, 0], device=torch_device())
        theirs = torch_reference.objective(weights, to_torch(x), angles).cpu().numpy()
    difference = float(np.abs(ours - theirs).max())
    if not difference <= 1e-2:
        raise RuntimeError(f"the two sides disagree on J by {difference:.3g} nats: nothing was timed")
    return difference


def measure(sides: Sequence[Side], batches: Sequence[np.ndarray], repeats: int) -> list[dict[str, Any]]:
    """One row per side; the sides take turns, so that they share the machine's noise."""
    losses: dict[str, float] = {}

    def run(side: Side) -> None:
        losses[side.name] = float(np.mean([side.losses(x) for x in batches]))

    seconds = in_turns({side.name: functools.partial(run, side) for side in sides}, repeats)
    n = sum(len(x) for x in batches)
    rate = {name: n / statistics.median(times) for name, times in seconds.items()}
    return [
        {
            "name": side.name,
            "images_per_second": rate[side.name],
            "slowest": n / max(seconds[side.name]),
            "fastest": n / min(seconds[side.name]),
            "mean_loss_nats": losses[side.name],
            "forward_passes_by_count": side.passes,
            "forward_passes_by_time": rate[side.forward] / rate[side.name],
            "ratio_to_reference": rate[side.name] / rate[REFERENCE] if REFERENCE in rate else None,
        }
        for side in sides
    ]


def load_params(args: argparse.Namespace) -> avae.Params:
    """The run's weights or fresh ones, with the rotations that both sides search."""
    if args.workdir:
        params = avae.load(args.workdir)
        known = isinstance(params.model.networks, avae.MLP | avae.Conv)
        if not known or params.model.likelihood != avae.Bernoulli():
            raise ValueError(f"--workdir: expected an MLP or Conv with the Bernoulli likelihood, got {params.model}")
        params = params.replace(model=dataclasses.replace(params.model, transform=avae.Rotation(), search=None))
        return params if params.model.pose_network else distilled(params, args.distill, args.proposals)
    return fresh(args.network, args.side)


def fresh(network: str, side: int) -> avae.Params:
    """Fresh weights of an "mlp" or a "conv" for images of this side."""
    networks = avae.MLP if network == "mlp" else avae.Conv
    return avae.init(jax.random.key(0), networks(image_shape=(side, side, 1)))


def distilled(params: avae.Params, n: int, path: pathlib.Path | None) -> avae.Params:
    """With a pose network that has learned from `n` training digits at random orientations, or is in a file."""
    if path and path.exists():
        model = dataclasses.replace(params.model, pose_network=avae.PoseNetwork())
        blank = model.init(jax.random.key(0))["pose_network"]
        with np.load(path) as leaves:
            weights = jax.tree.unflatten(jax.tree.structure(blank), [leaves[name] for name in leaves])
        return avae.Params(params.weights | {"pose_network": weights}, model)
    images = data.load(data.Data(n_train=n, n_test=1)).train.images
    params = avae.distill(params, padded(images, params.model.image_shape[0]))
    if path:
        np.savez(path, *jax.tree.leaves(params.weights["pose_network"]))
    return params


def padded(x: np.ndarray, side: int) -> np.ndarray:
    """Images [n, H, W, C] with zeros around them, to `side`."""
    margin, odd = divmod(side - x.shape[1], 2)
    if margin < 0 or odd:
        raise ValueError(f"expected an even --side >= 28, got {side}")
    return np.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))


def load_batches(images: int, batch: int, side: int) -> list[np.ndarray]:
    """Whole batches of test digits at random orientations, padded with zeros to `side`."""
    if images < batch:
        raise ValueError(f"expected --images >= --batch, got {images} and {batch}")
    x = padded(data.load(data.Data(n_train=1, n_test=images)).test.images, side)
    return [x[i : i + batch] for i in range(0, images - batch + 1, batch)]


def describe_machine() -> dict[str, Any]:
    return environment() | {
        "load_at_start": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "torch_device": torch_device() if torch else None,
        "torch": torch.__version__ if torch else None,
    }


def markdown(result: dict[str, Any]) -> str:
    lines = [
        f"# Alignment, {result['network']} {result['side']}x{result['side']}, batch {result['batch']}",
        "",
        facts(result["machine"]),
        f"{result['weights']}. {result['images']} images, median of {result['repeats']} repeats (slowest-fastest).",
        "Forward passes: of the same side, by time and by count. Ratio: to the PyTorch search.",
        "",
        "| | images/s | J, nats | passes by time | by count | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        ratio = row["ratio_to_reference"]
        lines.append(
            f"| {row['name']} | {row['images_per_second']:.4g} ({row['slowest']:.4g}-{row['fastest']:.4g}) "
            f"| {row['mean_loss_nats']:.2f} | {row['forward_passes_by_time']:.3g} | {row['forward_passes_by_count']} "
            f"| {'' if ratio is None else f'{ratio:.3g}'} |"
        )
    if result["difference_nats"] is None:
        lines += ["", "PyTorch is not installed: install torch to compare."]
    else:
        lines += ["", f"Both sides agree on J to {result['difference_nats']:.1g} nats."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = flags(__doc__)
    parser.add_argument("--workdir", help="a trained run; without it, fresh weights")
    parser.add_argument("--network", choices=("mlp", "conv"), default="mlp", help="of the fresh weights")
    parser.add_argument("--side", type=int, default=28, help="image side of the fresh weights")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--exhaustive", action="store_true", help='the preset "exhaustive" as well: slow')
    parser.add_argument("--distill", type=int, default=12_000, help="training digits behind the pose network")
    parser.add_argument("--proposals", type=pathlib.Path, help="an .npz file that keeps the distilled pose network")
    args = parser.parse_args()

    machine = describe_machine()
    params = load_params(args)
    networks = params.model.networks
    side = networks.image_shape[0]
    batches = load_batches(args.images, args.batch, side)
    difference = check_agreement(params, batches[0]) if torch else None
    presets = PRESETS if args.exhaustive else PRESETS[:-1]
    sides = avae_sides(params, presets) + (torch_sides(params) if torch else [])
    result = {
        "machine": machine,
        "network": type(networks).__name__.lower(),
        "side": side,
        "weights": f"Trained: {args.workdir}" if args.workdir else "Fresh weights: J is meaningless, times are right",
        "batch": args.batch,
        "images": sum(len(x) for x in batches),
        "repeats": args.repeats,
        "difference_nats": difference,
        "rows": measure(sides, batches, args.repeats),
    }
    size = "" if side == 28 else str(side)
    save(args.out, f"align_{result['network']}{size}_{args.batch}", result, markdown(result))


if __name__ == "__main__":
    main()
