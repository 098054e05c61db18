"""Defaults from the data: what a file holds, and the config of a run on it, with the reason for each choice.

What is embedded (digits, cells, furniture) has configs of its own; everything else comes from someone who knows the
images, not the settings.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from avae.config import default
from avae.data import sources
from avae.data.sources.stacks import Rows, as_read
from avae.networks.values import standardised
from avae.runtime.mistake import Mistake
from avae.transforms.background import estimate_background

SEEN = 1000  # examples that are looked at, evenly spaced
ENDS = 0.1  # values within so much of 0 or 1 are near them
STEPS = 300  # of training: poses of noisy particles are then as good as they get (docs/results.md)
HELD_OUT, MOST_HELD_OUT = 0.1, 2000
BATCHES = "128 images, 32 volumes, or a quarter of them"
CONV = 128 * 128  # pixels from which the networks are convolutional


class Look(NamedTuple):
    """What a source holds.

    Attributes:
      name: as it was given.
      dim: 2 for images, 3 for volumes.
      n: examples, training and test.
      n_test: those of them that the source itself keeps for tests; 0 where it has no split.
      shape: of an example [*space, C].
      dtype: as stored.
      labels: how many kinds there are; 0 for no labels.
      low, high, mean, std: of the values as they are read.
      near: share of the values near 0 or 1.
      background: median of the border pixels, one per channel, as stored; of what is read, where each image has a mean
        and a standard deviation of its own.
      spacing: lengths of a voxel along x, y, z, where the source says them.
      fit: how the examples came to one size; "" where they had one.
      read: what becomes of such levels when they are read.
    """

    name: str
    dim: int
    n: int
    n_test: int
    shape: tuple[int, ...]
    dtype: str
    labels: int
    low: float
    high: float
    mean: float
    std: float
    near: float
    background: tuple[float, ...]
    spacing: tuple[float, ...] | None
    fit: str
    read: Callable[[Any], tuple[float, ...]]


class Choice(NamedTuple):
    """A setting that was chosen, and why, in a sentence."""

    name: str
    value: Any
    why: str


def look(name: str, fit: str = "") -> Look:
    """Looks at the examples of a source, brought to one size by `fit`, if any; reads at most `SEEN` of them.

    Raises:
      Mistake: if it is missing or damaged, or holds neither images nor volumes.
    """
    dim, train, test = sources.opened(name, sources.Fit(fit))
    which = np.unique(np.linspace(0, len(train.images) - 1, SEEN).astype(int))
    rows = Rows(train, which)[:]
    finite = rows[np.isfinite(rows)]
    if not finite.size:
        raise Mistake(f"{name}: expected numbers, got none that is finite in the {len(rows)} examples looked at")
    raw = rows if train.scale is standardised else np.asarray(train.images[which], np.float32)
    labels = 0 if train.labels is None else len(np.unique(train.labels))
    return Look(
        name=name,
        dim=dim,
        n=len(train.images) + (0 if train is test else len(test.images)),
        n_test=0 if train is test else len(test.images),
        shape=train.images.shape[1:],
        dtype=str(train.images.dtype),
        labels=labels,
        low=float(finite.min()),
        high=float(finite.max()),
        mean=float(finite.mean(dtype=np.float64)),
        std=float(finite.std(dtype=np.float64)),
        near=float(np.mean((finite < ENDS) | (finite > 1 - ENDS))),
        background=estimate_background(np.ma.masked_invalid(raw)),
        spacing=train.spacing,
        fit=fit,
        read=functools.partial(as_read, train),
    )


def chosen(seen: Look, options: Mapping[str, Any] | None = None) -> tuple[ConfigDict, list[Choice]]:
    """The config of a run on what was looked at, and what was chosen in it.

    Args:
      seen: what `look` returned.
      options: what the user says instead: transform, latent, likelihood, epochs, mirror, background, batch_size, seed,
        start (the folder of a run whose weights are the first ones), mask (a .npy file), poses (see
        `Train.poses`). The background is in raw values, as stored.

    Raises:
      Mistake: if there are fewer than three examples.
    """
    given = {key: value for key, value in (options or {}).items() if value is not None}
    if seen.n < 3:
        raise Mistake(f"{seen.name}: expected at least 3 examples, got {seen.n}")
    n_test = seen.n_test or min(MOST_HELD_OUT, max(1, round(HELD_OUT * seen.n)))
    n_train = seen.n - n_test
    batch = given.get("batch_size") or min(128 if seen.dim == 2 else 32, max(1, n_train // 4))
    epochs = max(2, -(-STEPS // max(1, n_train // batch)))
    choices = [
        Choice("data.n_test", n_test, "the source's own split" if seen.n_test else "a tenth, at most 2,000, held out"),
        Choice("data.pose", "as_is", "images are taken as they are, at no further poses"),
        *_family(seen, given),
        *_likelihood(seen, given),
        *_networks(seen, given),
        _or_given(Choice("train.batch_size", batch, BATCHES), given, "batch_size"),
        _or_given(Choice("train.epochs", epochs, f"about {STEPS} steps, from 2 epochs"), given, "epochs"),
    ]
    choices.append(_background(seen, given, choices))
    if given.get("poses"):
        choices.append(Choice("train.poses", given["poses"], "searched near them first"))
    if "mask" in given:
        choices.append(Choice("likelihood.mask", given["mask"], "pixels that are masked in all images do not count"))
    seed, family = given.get("seed", 0), next(choice.value for choice in choices if choice.name == "transform.name")
    settings = {"data.name": seen.name, "data.n_train": n_train, "data.seed": seed, "train.seed": seed}
    settings |= {"data.masks": {"bool": True, "uint8": False}.get(seen.dtype)}  # as the reader decided
    settings |= {"data.fit": seen.fit, "train.start": str(given.get("start", ""))}
    settings |= {"data.transform.name": family, "evaluation.baseline_epochs": 0, "evaluation.n_exhaustive": 64}
    settings |= {"evaluation.n_curve": 32, "evaluation.n_bound": 32}
    settings |= {f"data.{one.name}": one.value for one in choices if one.name == "transform.spacing"}
    config = default()
    config.update_from_flattened_dict(settings | {choice.name: choice.value for choice in choices})
    return config, choices


def as_text(choices: list[Choice]) -> str:
    """A line for each choice: the setting, its value, and why."""
    width = max(len(choice.name) for choice in choices)
    return "\n".join(f"{choice.name:<{width}}  {choice.value}  ({choice.why})" for choice in choices)


def _family(seen: Look, given: Mapping[str, Any]) -> list[Choice]:
    name = "rigid" if seen.dim == 2 else "rotation3d"
    chosen = Choice("transform.name", name, "turns and shifts of images" if seen.dim == 2 else "turns of volumes")
    choices = [_or_given(chosen, given, "transform")]
    if seen.dim == 3 and (spacing := given.get("spacing") or seen.spacing) and max(spacing) > 1.01 * min(spacing):
        unit = tuple(float(f"{length / min(spacing):.6g}") for length in spacing)
        why = "as you say" if "spacing" in given else "lengths of a voxel along x, y, z, by which turns are turns"
        choices.append(Choice("transform.spacing", unit, why))
    if given.get("mirror"):
        choices.append(Choice("transform.mirror", True, "as you say"))
    return choices


def _likelihood(seen: Look, given: Mapping[str, Any]) -> list[Choice]:
    """Bernoulli for what is nearly black and white; else Gaussian, for values of mean 0 and standard deviation 1."""
    inside = seen.low >= 0 and seen.high <= 1
    black_and_white = inside and seen.near > 0.5
    grey = f", {seen.near:.0%} of them near 0 or 1" if inside else ""
    why = f"values from {seen.low:.4g} to {seen.high:.4g}{grey}"
    choice = _or_given(
        Choice("likelihood.name", "bernoulli" if black_and_white else "gaussian", why), given, "likelihood"
    )
    if choice.value != "gaussian" or (abs(seen.mean) < 0.05 and abs(seen.std - 1) < 0.05) or not seen.std > 0:
        return [choice]
    return [
        choice,
        Choice("data.mean", float(f"{seen.mean:.6g}"), "the values' mean: the model sees them less it,"),
        Choice("data.std", float(f"{seen.std:.6g}"), "over their standard deviation"),
    ]


def _networks(seen: Look, given: Mapping[str, Any]) -> list[Choice]:
    pixels = int(np.prod(seen.shape[:-1]))
    convolutional = seen.dim == 2 and pixels > CONV and not any(side % 8 for side in seen.shape[:-1])
    latent = _or_given(Choice("model.latent", 8, "enough for shapes of a few kinds"), given, "latent")
    name = Choice("model.name", "conv" if convolutional else "mlp", f"{pixels:,} pixels; above {CONV:,} convolutional")
    return [Choice("model.image_shape", seen.shape, "that of the examples"), name, latent]


def _or_given(choice: Choice, given: Mapping[str, Any], key: str) -> Choice:
    return Choice(choice.name, given[key], "as you say") if key in given else choice


def _background(seen: Look, given: Mapping[str, Any], choices: list[Choice]) -> Choice:
    """The median of the borders, or raw levels that are given, as the model sees them."""
    if "background" not in given:
        return Choice("data.background", "auto", f"median of the border pixels: {_short(seen.background)}")
    values = {choice.name: choice.value for choice in choices}
    mean, std = values.get("data.mean", 0.0), values.get("data.std", 1.0)
    seen_by_model = tuple((level - mean) / std for level in seen.read(given["background"]))
    raw = given["background"] if isinstance(given["background"], tuple) else (given["background"],)
    return Choice("data.background", seen_by_model, f"as you say: {_short(raw)} in the data")


def _short(levels: tuple[float, ...]) -> str:
    return ", ".join(f"{level:.4g}" for level in levels)
