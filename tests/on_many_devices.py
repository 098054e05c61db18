"""What test_devices.py looks at, computed in a process of its own with eight fake devices: prints JSON.

The mesh is over the first 1, 2 or 8 of them.
"""

import contextlib
import json
import pathlib
import re
import sys
import tempfile

import jax
import numpy as np

import avae
from avae.config import default, experiment
from avae.runtime import devices, parts
from avae.settings import Plan
from avae.training import loop, step as training

jax.config.update("jax_num_cpu_devices", 8)
INNER = ("align", "inference.bounds", "inference.posterior")
MOVES = r"= (.*?) (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
SMALL = {
    "data.n_train": 64,
    "data.n_test": 8,
    "model.hidden": (8,),
    "model.latent": 2,
    "train.batch_size": 16,
    "train.epochs": 5,  # 20 steps
    "train.warmup_steps": 2,
    "train.search.n_starts": 8,
    "train.search.top_k": 1,
    "train.search.n_local": (),
    "train.search.n_steps": 1,
}


def described(**changes):
    config = default()
    config.update_from_flattened_dict(SMALL | changes)
    return experiment(config)


def use(n):
    """The mesh of the first n devices, from now on."""
    row = jax.make_mesh((n,), (devices.AXIS,), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:n])
    devices.mesh = lambda: row


def moves(compiled):
    """Kind and shapes of everything that moves between devices in a compiled step."""
    found = (re.search(MOVES, line) for line in compiled.as_text().splitlines())
    return [(match[2], re.findall(r"\[([\d,]*)\]", match[1])) for match in found if match]


def flat(params):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(jax.device_get(params.weights))])


def distance(a, b):
    return float(np.linalg.norm(flat(a) - flat(b)) / np.linalg.norm(flat(b)))


def steps(n, **changes):
    """The weights after 20 steps on n devices, the losses on the way, and what moved in each step."""
    use(n)
    exp, rng = described(**changes), np.random.default_rng(0)
    images = rng.random((64, 28, 28, 1), np.float32)
    state = devices.replicate(training.init_state(exp))
    index = np.arange(16)
    step = training.train_step.lower(state, devices.take(images, index), exp, n, index).compile()
    losses = []
    for _ in range(20):
        index = rng.permutation(64)[:16]
        state, metrics = step(state, devices.take(images, index), index)
        losses.append(float(metrics["loss"]))
    whole = all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state))
    return state.params, losses, moves(step), whole


def in_parts_where_it_lies():
    """An alignment, a bound and a posterior that need parts, of a batch on one device and of it split over eight."""
    network, family = avae.MLP(image_shape=(12, 12, 1), hidden=(8,), latent=2), avae.QuarterTurns()
    params = avae.init(jax.random.key(0), avae.Model(network, transform=family))
    x, key = np.random.default_rng(1).random((48, 12, 12, 1), np.float32), jax.random.key(0)
    search = avae.Search(n_starts=4, top_k=1, n_local=(), n_steps=0)
    use(8)
    parts.budget = lambda: 100_000  # bytes
    split = devices.take(x, np.arange(48))
    given = {"key": key, "search": search, "n_samples": 8, "n_modes": 4}
    held, layout = Plan(search, proposed=False), parts.Layout(shards=8)
    sizes = (8, 4, held, family, layout)  # draws, modes, settings, family, devices
    posteriors = [avae.pose_posterior(params, x, **given) for x in (x, split)]
    inner = {name.rpartition(".")[2]: sys.modules[f"avae.{name}"] for name in INNER}
    return {
        "align": compared(
            [avae.align(params, x, search=search) for x in (x, split)],
            inner["align"]._align.lower(params, (split, None), None, family, held, layout),
        ),
        "bound": compared(
            [avae.log_likelihood(params, x, method="multi_start", **given) for x in (x, split)],
            inner["bounds"]._bound.lower(params, split, key, "multi_start", *sizes),
        ),
        "posterior": compared(
            [(p.weights, p.entropy, p.evidence) for p in posteriors],  # draws are the same for all
            inner["posterior"]._posterior.lower(params, split, key, *sizes),
        ),
    }


def compared(results, lowered):
    """How the results on one device and on eight differ, where the latter lie, and what moves on the way."""
    one, many = map(jax.tree.leaves, results)
    compiled = lowered.compile()
    return {
        "close": all(np.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(one, many, strict=True)),
        "rows_per_device": sorted({leaf.sharding.shard_shape(leaf.shape)[0] for leaf in many if leaf.size}),
        "moves": moves(compiled),
        "loops": "while(" in compiled.as_text(),
    }


def resumed():
    """How far a run begun on two devices and ended on eight is from one that stayed on one; and the order of images."""
    exp, seen = described(**{"train.search.enabled": False}), []
    stop, step = loop.stop_signal, loop.train_step
    loop.train_step = lambda *args: (seen.append(args[-1].tolist()), step(*args))[1]
    with tempfile.TemporaryDirectory() as folder:
        here = pathlib.Path(folder)
        use(1)
        (here / "straight").mkdir()
        (here / "moved").mkdir()
        straight = loop.fit(exp, here / "straight")
        order, seen[:] = list(seen), []
        use(2)
        loop.stop_signal = lambda: contextlib.nullcontext(lambda step: 15 if step == 8 else None)
        with contextlib.suppress(loop.Interrupted):
            loop.fit(exp, here / "moved")
        loop.stop_signal = stop
        use(8)
        moved = loop.fit(exp, here / "moved")
    return {"distance": distance(moved, straight), "same_order": seen == order, "steps": len(seen)}


def mistake():
    use(8)
    try:
        devices.check_batch(12)
    except ValueError as error:
        return str(error)


if __name__ == "__main__":
    runs = {n: steps(n) for n in (1, 2, 8)}
    remembered = {n: steps(n, **{"train.search_every": 2}) for n in (1, 8)}
    print(
        json.dumps(
            {
                "distances": [distance(runs[n][0], runs[1][0]) for n in (2, 8)],
                "losses": [runs[n][1] for n in (1, 2, 8)],
                "moves": {n: runs[n][2] for n in (1, 2, 8)},
                "replicated": [runs[n][3] for n in (1, 2, 8)],
                "remembered": {
                    "distance": distance(remembered[8][0], remembered[1][0]),
                    "moves": remembered[8][2],
                    "replicated": remembered[8][3],
                },
                "in_parts": in_parts_where_it_lies(),
                "resumed": resumed(),
                "mistake": mistake(),
            }
        ),
        file=sys.stdout,
    )
