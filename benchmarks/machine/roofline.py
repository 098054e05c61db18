"""How near each stage of the search comes to what the machine can do, and the coarse stage to plain forward passes.

    PYTHONPATH=benchmarks python benchmarks/machine/roofline.py  # MLP 28x28, the default search
    PYTHONPATH=benchmarks python benchmarks/machine/roofline.py --network conv --side 40 --batch 16

The stages of `avae.align` are timed one by one, in turns, on random images with fresh weights: times are right, losses
are not. Operations and bytes of each are the compiler's (`counts.py`). Peaks are measured in the same
process: operations by a product of two large float32 matrices, bytes by a sum of two large arrays. The roofline is the
lower of the two bounds, min(operations/s, bytes/s x operations per byte); "share" is how much of it is reached. Bytes
that pass from kernel to kernel within a cache are faster than the memory is, so that a share can be above 100 %.

The second table compares the coarse stage of 32 starts with 32 plain forward passes of the VAE with J, without warps:
as it is, through the networks' reduced twin, and as a whole search that keeps the best start as it is, which adds a
pass with a tangent for the curvature. Results go to `--out` as JSON and Markdown.
"""

import dataclasses
import functools
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import counts
import jax
import jax.numpy as jnp
import numpy as np
from align import describe_search, fresh
from jax import Array
from protocol import facts, flags, in_turns, save

import avae
from avae.align import look_around, refine_all, score as score_starts, search_one, top_k
from avae.objective import pose_loss
from avae.report.page import environment
from avae.runtime.parts import in_parts
from avae.settings import Search, plan
from avae.solvers import Poses

COARSE = Search(n_starts=32, top_k=1, n_local=(), n_refined=1, n_steps=0)
MATRIX, ARRAY = 3072, 2**26  # sides and entries of what measures the peaks
Stage = Callable[[avae.Params, Array, Search], Any]  # of one example


def score(params: avae.Params, x: Array, search: Search) -> Any:
    """Starts -> scores -> top k."""
    transform = params.model.transform
    loss_fn, starts = pose_loss(params, transform), transform.starts(search.n_starts, None)
    return top_k(loss_fn, x, score_starts(loss_fn, x, starts), search.top_k, rescored=False)


def look(params: avae.Params, x: Array, search: Search) -> Any:
    """Poses tried around each of the top k starts, here the first ones."""
    transform = params.model.transform
    loss_fn, starts = pose_loss(params, transform), transform.starts(search.n_starts, None)
    kept = Poses(starts[: search.top_k], jnp.zeros(search.top_k), jnp.arange(search.top_k))
    return look_around(loss_fn, x, kept, transform, search.n_local, len(starts))


def descend(params: avae.Params, x: Array, search: Search) -> Any:
    """Refinement of as many starts as the search refines."""
    transform = params.model.transform
    loss_fn = pose_loss(params, transform)
    starts = transform.starts(search.n_starts, None)[: search.n_refined]
    return refine_all(loss_fn, x, Poses(starts, starts[:, 0], jnp.arange(len(starts))), transform, search)


STAGES: dict[str, Stage] = {"coarse stage": score, "look around": look, "refinement": descend}


@functools.partial(jax.jit, static_argnames=("stage", "search"))
def staged(stage: Stage, params: avae.Params, x: Array, search: Search) -> Any:
    """A stage for a batch [B, *space, C], in parts, as the search goes."""
    return in_parts(lambda x: stage(params, x, search), x)


@jax.jit
def forward(params: avae.Params, x: Array) -> Array:
    return avae.objective(params, x).total


@functools.partial(jax.jit, static_argnames="search")
def searched(params: avae.Params, x: Array, search: Search) -> Any:
    """The search alone: `avae.align` without what it says of the pose it found."""
    transform = params.model.transform
    loss, starts = pose_loss(params, transform), transform.starts(search.n_starts, None)
    return in_parts(lambda x: search_one(loss, x, starts, transform, search), x)


def count_stages(params: avae.Params, x: Array, search: Search) -> dict[str, counts.Count]:
    """Operations and bytes per image of a forward pass, of each stage, and of the whole of `avae.align`."""

    def count(stage: Stage) -> counts.Count:
        def batch(search: Search) -> counts.Count:
            return counts.counted(lambda params, x: jax.vmap(lambda x: stage(params, x, search))(x), params, x)

        return counts.of_search(batch, search)

    def whole(search: Search) -> counts.Count:
        return counts.counted(lambda params, x: avae.align(params, x, search=search), params, x)

    batches = {
        "forward pass": counts.counted(lambda params, x: avae.objective(params, x).total, params, x),
        **{name: count(stage) for name, stage in STAGES.items()},
        "avae.align": counts.of_search(whole, search),
    }
    return {name: {key: value / len(x) for key, value in batch.items()} for name, batch in batches.items()}


def peaks(repeats: int) -> dict[str, float]:
    """The most operations and bytes per second that were seen in `repeats` products and sums."""
    product, total = jax.jit(jnp.matmul), jax.jit(jnp.add)
    matrix, array, other = jnp.ones((MATRIX, MATRIX)), jnp.ones(ARRAY), jnp.zeros(ARRAY)
    seconds = in_turns(
        {
            "flops": lambda: product(matrix, matrix).block_until_ready(),
            "bytes": lambda: total(array, other).block_until_ready(),
        },
        repeats,
    )
    return {"flops": 2 * MATRIX**3 / min(seconds["flops"]), "bytes": 3 * array.nbytes / min(seconds["bytes"])}


def roofline(count: Mapping[str, float], peak: Mapping[str, float]) -> float:
    """Operations per second that the machine allows a computation with these counts."""
    return min(peak["flops"], peak["bytes"] * count["flops"] / count["bytes"])


def measure(params: avae.Params, x: Array, search: Search, repeats: int) -> dict[str, Any]:
    """Both tables: shares of the roofline by stage, and the coarse stage against 32 forward passes."""
    twin = dataclasses.replace(COARSE, coarse=2)
    wait = jax.block_until_ready
    variants: dict[str, Callable[[], Any]] = {
        "forward pass": lambda: [wait(forward(params, x)) for _ in range(COARSE.n_starts)],
        **{name: functools.partial(lambda f: wait(staged(f, params, x, search)), f) for name, f in STAGES.items()},
        "avae.align": lambda: wait(avae.align(params, x, search=search)),
        "scores and top k": lambda: wait(staged(score, params, x, COARSE)),
        "the same, reduced twin": lambda: wait(staged(score, params, x, twin)),
        "a search that stops there": lambda: wait(searched(params, x, COARSE)),
    }
    if not params.model.reducible(2):
        del variants["the same, reduced twin"]
    seconds = {name: statistics.median(times) for name, times in in_turns(variants, repeats).items()}
    plain = seconds["forward pass"]  # of 32
    seconds["forward pass"] = plain / COARSE.n_starts
    peak, counted = peaks(repeats), count_stages(params, x, search)
    stages = [
        {
            "stage": name,
            **count,
            "intensity": count["flops"] / count["bytes"],
            "images_per_second": len(x) / seconds[name],
            "flops_per_second": count["flops"] * len(x) / seconds[name],
            "roofline": roofline(count, peak),
            "share": count["flops"] * len(x) / seconds[name] / roofline(count, peak),
        }
        for name, count in counted.items()
    ]
    coarse = [
        {"what": name, "images_per_second": len(x) / seconds[name], "share_of_32_forwards": plain / seconds[name]}
        for name in list(variants)[len(counted) :]
    ]
    return {"peak": peak, "stages": stages, "coarse": coarse, "plain_images_per_second": len(x) / plain}


def markdown(result: dict[str, Any]) -> str:
    peak = result["peak"]
    lines = [
        f"# Roofline, {result['network']} {result['side']}x{result['side']}, batch {result['batch']}",
        "",
        facts(result["environment"]),
        f"Search {result['search']}; medians of {result['repeats']}. Peaks: {peak['flops'] / 1e9:,.1f} G operations/s "
        f"(product of matrices of side {MATRIX:,}), {peak['bytes'] / 1e9:,.1f} GB/s (sum of arrays of {ARRAY:,}).",
        "",
        "| stage | M operations per image | MB per image | operations per byte | images/s | G operations/s | share |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['stage']} | {row['flops'] / 1e6:.3g} | {row['bytes'] / 1e6:.3g} | {row['intensity']:.1f} "
        f"| {row['images_per_second']:,.0f} | {row['flops_per_second'] / 1e9:.1f} | {row['share']:.0%} |"
        for row in result["stages"]
    ]
    lines += [
        "",
        f"32 plain forward passes: {result['plain_images_per_second']:,.0f} images/s.",
        "",
        "| coarse stage, 32 starts | images/s | of what 32 forward passes allow |",
        "|---|---|---|",
    ]
    lines += [
        f"| {row['what']} | {row['images_per_second']:,.0f} | {row['share_of_32_forwards']:.0%} |"
        for row in result["coarse"]
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = flags(__doc__)
    parser.add_argument("--network", choices=("mlp", "conv"), default="mlp")
    parser.add_argument("--side", type=int, default=28)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    params = fresh(args.network, args.side)
    x = jnp.asarray(np.random.default_rng(0).random((args.batch, args.side, args.side, 1), np.float32))
    search = plan(params.model).search
    result = {
        "environment": environment(),
        "network": args.network,
        "side": args.side,
        "batch": args.batch,
        "search": describe_search(search),
        "repeats": args.repeats,
        **measure(params, x, search, args.repeats),
    }
    size = "" if args.side == 28 else str(args.side)
    save(args.out, f"roofline_{args.network}{size}", result, markdown(result))


if __name__ == "__main__":
    main()
