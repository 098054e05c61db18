"""All the numbers of the report: losses with and without search, orientations, latents, speed.

    results = evaluate(params, experiment.data, experiment.evaluation, baseline=plain)
    results.numbers["loss"]["avae"]["search"]["sampled"]    # {"mean": ..., "standard_error": ...}

`results.numbers` is what `avae.report` writes to results.json; nothing in the report comes from anywhere else.
"""

import dataclasses
import math
import statistics
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from avae import metrics
from avae.align import Alignment, align
from avae.batched import over_batches, plain_loss, plain_reconstruction, sampled_loss
from avae.config import Evaluation
from avae.data import Data, Examples, binarize, load, repose
from avae.figures import Curve
from avae.model import Params
from avae.settings import Search
from avae.transforms import Rotation

SPEED_BATCH = 512
NAMES = {"avae": "AVAE", "plain_vae": "plain VAE"}


class Pictures(NamedTuple):
    """One test image per class with what became of it, each [N, H, W, C]; `matrix` [N, 2, 3]; see `figures.grid`."""

    images: np.ndarray
    canonical: np.ndarray
    reconstruction: np.ndarray
    matrix: np.ndarray
    plain: np.ndarray | None


class Results(NamedTuple):
    """What was measured.

    Attributes:
      numbers: nested dict of plain Python numbers, lists and strings: the content of results.json.
      curves: loss against rotation angle, for the figure.
      angles: net orientation of each test image [N], radians.
      labels: class of each test image [N].
      pictures: examples for the figure.
    """

    numbers: dict[str, Any]
    curves: list[Curve]
    angles: np.ndarray
    labels: np.ndarray
    pictures: Pictures


class _Scores(NamedTuple):
    """Per image: J [N] without and with search, z sampled (mean of the draws) and at the mean; and the alignment."""

    no_search: dict[str, Any]
    search: dict[str, Any]
    found: Alignment


def evaluate(params: Params, data: Data, settings: Evaluation, *, baseline: Params | None = None) -> Results:
    """Measures a trained model on the test images, and a plain VAE beside it.

    Args:
      params: the model, trained with search.
      data: what it was trained on; its test images are used, and the same images upright for the curve.
      settings: sizes of the measurements; more than there are test images means all of them.
      baseline: a plain VAE (trained without search) to compare with; None for no comparison.

    Returns:
      `Results`.

    Raises:
      ValueError: if a model does not fit the data.
    """
    start = time.perf_counter()
    test = load(dataclasses.replace(data, n_train=1)).test
    models = {"avae": params} | ({} if baseline is None else {"plain_vae": baseline})
    scores = {name: _score(model, test, settings.draws, NAMES[name]) for name, model in models.items()}
    found = scores["avae"].found
    angles = metrics.net_angle(params.model.transform, found.alpha, test.poses, data.transform)
    curve, curves = _loss_curve(models, data, settings)
    numbers = {
        "n_test": len(test.images),
        "draws": settings.draws,
        "gain": _gain(scores, same_size=baseline is not None and baseline.model.networks == params.model.networks),
        "loss": {name: _loss_numbers(score) for name, score in scores.items()},
        "search": _search_quality(params, test.images, found, settings),
        "curve": curve,
        "orientation": _orientation(angles, test.labels),
        "clusters": {"accuracy": metrics.cluster_accuracy(found.latent, test.labels)},
        "speed": _speed(params, test.images[:SPEED_BATCH]),
    }
    numbers["seconds"] = time.perf_counter() - start
    return Results(numbers, curves, angles, test.labels, _pictures(test, found, baseline))


def _score(params: Params, test: Examples, draws: int, name: str) -> _Scores:
    """Losses of every test image, with the same random numbers for every model."""

    def score(x: np.ndarray, index: np.ndarray) -> _Scores:
        key = jax.random.fold_in(jax.random.key(0), int(index[0]))
        found = align(params, x)
        return _Scores(
            {"sampled": sampled_loss(params, x, None, key, draws), "at_mean": plain_loss(params, x)},
            {"sampled": sampled_loss(params, x, found.alpha, key, draws), "at_mean": found.loss},
            found,
        )

    return over_batches(score, (test.images, np.arange(len(test.images))), f"{name}, test images")


def _search_quality(params: Params, images: np.ndarray, found: Alignment, settings: Evaluation) -> dict[str, Any]:
    """The model's own search against many more starts, of which the best is refined by Gauss-Newton."""
    images = images[: settings.n_exhaustive]
    dense = Search(n_starts=settings.n_angles, top_k=1, n_steps=10)
    losses = over_batches(lambda x: align(params, x, search=dense).loss, (images,), "exhaustive search")
    default = found.loss[: len(images)]
    return {
        "n_images": len(images),
        "n_angles": settings.n_angles,
        "default": _mean(default),
        "exhaustive": _mean(losses),
        "gap": _mean(default - losses),
        "not_finite": int(np.sum(~np.asarray(found.info.finite))),
    }


def _loss_curve(models: dict[str, Params], data: Data, settings: Evaluation) -> tuple[dict[str, Any], list[Curve]]:
    """Mean J (z at the posterior mean) of upright test images turned by each angle, for each model and both ways."""
    n = min(settings.n_curve, data.n_test)
    upright = load(dataclasses.replace(data, pose="upright", binarize="none", n_train=1, n_test=n)).test.images
    degrees = np.arange(0, 360, settings.curve_step)
    poses = np.radians(np.repeat(degrees, n)).astype(np.float32)[:, None]
    which = np.tile(np.arange(n), len(degrees))

    numbers: dict[str, Any] = {"n_images": n, "angles": degrees.tolist(), "series": {}}
    curves = []
    for name, params in models.items():

        def both(which: np.ndarray, pose: np.ndarray, params: Params = params) -> tuple[Array, Array]:
            turned = repose(jnp.asarray(upright[which]), jnp.asarray(pose), Rotation())
            x = binarize(turned, data.binarize, jax.random.key(data.seed))
            return align(params, x).loss, plain_loss(params, x)

        losses = over_batches(both, (which, poses), f"{NAMES[name]}, loss against rotation")
        searched, plain = (loss.reshape(len(degrees), n) for loss in losses)
        for suffix, loss in (("search", searched), ("no_search", plain)):
            mean = loss.mean(axis=1, dtype=np.float64)
            numbers["series"][f"{name}_{suffix}"] = _range(degrees, mean)
            curves.append(Curve(NAMES[name], suffix == "search", mean))
        numbers["series"][f"{name}_search"]["worst_harm"] = float((searched[0] - plain[0]).max())
    return numbers, curves


def _range(degrees: np.ndarray, loss: np.ndarray) -> dict[str, Any]:
    """A curve and its best and worst angle, leaving out multiples of 90: not resampled, the image is sharper there."""
    resampled = loss[degrees % 90 != 0]
    best, worst = (float(resampled.min()), float(resampled.max())) if len(resampled) else (None, None)
    spread = None if best is None or worst is None else worst - best
    return {"loss": loss.tolist(), "upright": float(loss[0]), "best": best, "worst": worst, "range": spread}


def _orientation(angles: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    resultants = metrics.class_resultants(angles, labels)
    errors = metrics.rotation_errors(angles, labels)
    folded = metrics.rotation_errors(angles, labels, fold=2)
    classes = {
        str(label): {
            "count": int(np.sum(labels == label)),
            "resultant": resultant,
            "median_error": float(np.median(errors[labels == label])),
            "median_error_modulo_180": float(np.median(folded[labels == label])),
        }
        for label, resultant in resultants.items()
    }
    return {
        "mean_resultant": statistics.fmean(resultants.values()),
        "error": metrics.summarise_errors(errors),
        "error_modulo_180": metrics.summarise_errors(folded),
        "classes": classes,
    }


def _speed(params: Params, images: np.ndarray) -> dict[str, Any]:
    """Images per second of one plain pass and of `align`: compiled before, median of three."""
    x = jnp.asarray(images)
    calls = {"encode_decode": lambda: plain_loss(params, x), "align": lambda: align(params, x).loss}
    speed: dict[str, Any] = {"batch": len(images)}
    for name, call in calls.items():
        jax.block_until_ready(call())
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            jax.block_until_ready(call())
            seconds.append(time.perf_counter() - start)
        speed[name] = len(images) / statistics.median(seconds)
    return speed | {"forwards_per_align": speed["encode_decode"] / speed["align"]}


def _gain(scores: dict[str, _Scores], same_size: bool) -> dict[str, Any] | None:
    """How far the model beats the plain VAE: each as it was trained, z sampled, paired by image."""
    if "plain_vae" not in scores:
        return None
    difference = scores["plain_vae"].no_search["sampled"] - scores["avae"].search["sampled"]
    return _mean(difference) | {"same_size": same_size}


def _pictures(test: Examples, found: Alignment, baseline: Params | None) -> Pictures:
    """The first image of each class, up to twelve classes."""
    _, first = np.unique(test.labels, return_index=True)
    first = first[:12]
    images = test.images[first]
    plain = None if baseline is None else np.asarray(plain_reconstruction(baseline, jnp.asarray(images)))
    canonical, reconstruction, matrix = (
        np.asarray(array)[first] for array in (found.canonical, found.reconstruction, found.matrix)
    )
    return Pictures(images, canonical, reconstruction, matrix, plain)


def _loss_numbers(scores: _Scores) -> dict[str, Any]:
    return {way: {z: _mean(losses) for z, losses in getattr(scores, way).items()} for way in ("no_search", "search")}


def _mean(values: ArrayLike) -> dict[str, float | None]:
    """Mean over images and its standard error (None for a single image)."""
    values = np.asarray(values, np.float64)
    error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
    return {"mean": float(values.mean()), "standard_error": error}
