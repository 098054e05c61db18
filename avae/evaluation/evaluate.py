"""All the numbers of the report: losses with and without search, health, orientations, latents, speed.

    results = evaluate(params, experiment.data, experiment.evaluation, baseline=plain)
    results.numbers["loss"]["avae"]["search"]["sampled"]    # {"mean": ..., "standard_error": ...}

`results.numbers` is what `avae.report.page` writes to results.json; nothing in the report comes from anywhere else.
"""

import dataclasses
import statistics
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from avae.align import Alignment, align
from avae.data.dataset import Examples, load
from avae.data.described import AUTO, Data
from avae.evaluation import likelihood as comparison, metrics
from avae.evaluation.curves import loss_curves
from avae.evaluation.examples import Pictures, Points, Strips, chosen, strips
from avae.evaluation.losses import least_loss, plain_loss, plain_reconstruction, sampled_loss, squared_error
from avae.evaluation.metrics import mean_and_error
from avae.evaluation.posterior import Uncertain, least_certain
from avae.evaluation.speed import speed
from avae.experiment import Evaluation
from avae.inference.health import health
from avae.model import Params
from avae.runtime.batches import over_batches
from avae.runtime.devices import replicate
from avae.transforms import Transform


class Results(NamedTuple):
    """What was measured.

    Attributes:
      numbers: nested dict of plain Python numbers, lists and strings: the content of results.json.
      rotations: net orientation of each test image [N, d, d], see `metrics.net_rotation`.
      labels: class of each test image [N].
      pictures: examples for the figures.
      uncertain: those whose poses are the least certain, where posteriors were measured.
      points: the test examples, for the map of the latents.
      strips: what is decoded along each latent.
    """

    numbers: dict[str, Any]
    rotations: np.ndarray
    labels: np.ndarray
    pictures: Pictures
    uncertain: Uncertain | None
    points: Points | None = None
    strips: Strips | None = None


class Inputs(NamedTuple):
    """What a model is measured on.

    Attributes:
      test: the test examples, at their poses.
      upright: the same examples [N, *space, C] without a pose.
      grey: the first of them before any binarisation, for the curve of loss against rotation.
      transform: the family of the poses.
      binarize: how the test examples were binarized, see `avae.data.Data`.
      seed: of that binarisation.
      class_names: of the labels 0, 1, ...; empty where the examples have no labels: what needs them is left out.
      background: the level outside of the grey examples, for all channels or for each.
    """

    test: Examples
    upright: np.ndarray
    grey: np.ndarray
    transform: Transform
    binarize: str = "none"
    seed: int = 0
    class_names: tuple[str, ...] = ()
    background: tuple[float, ...] = (0.0,)


class _Scores(NamedTuple):
    """Per image: without and with search, J [N] and squared error [N]; upright, J [N] both ways; the alignment."""

    no_search: dict[str, Any]
    search: dict[str, Any]
    upright: dict[str, Any]
    found: Alignment


def evaluate(params: Params, data: Data, settings: Evaluation, *, baseline: Params | None = None) -> Results:
    """Measures a trained model on the test images, and a plain VAE beside it.

    Args:
      params: the model, trained with search.
      data: what it was trained on; its test images are used, and the same images upright.
      settings: sizes of the measurements; more than there are test images means all of them.
      baseline: a plain VAE (trained without search) to compare with; None for no comparison.

    Raises:
      Mistake: if a model does not fit the data.
    """
    background = params.model.background if data.background == AUTO else data.background
    data = dataclasses.replace(data, n_train=1, background=background)
    splits, upright = load(data), dataclasses.replace(data, pose="as_is", test_pose="")
    inputs = Inputs(
        test=splits.test,
        upright=load(upright).test.images,
        grey=load(dataclasses.replace(upright, binarize="none")).test.images[: settings.n_curve],
        transform=data.transform,
        binarize=data.binarize,
        seed=data.seed,
        class_names=splits.class_names,
        background=background,
    )
    return measure(params, inputs, settings, baseline=baseline)


@np.errstate(invalid="ignore", over="ignore")  # what is not finite is counted
def measure(params: Params, inputs: Inputs, settings: Evaluation, *, baseline: Params | None = None) -> Results:
    """`evaluate` on given examples."""
    start, test, labels = time.perf_counter(), inputs.test, inputs.test.labels if inputs.class_names else None
    params, baseline = replicate((params, baseline))
    models = {"avae": params} | ({} if baseline is None else {"plain_vae": baseline})
    scores = {name: _score(model, inputs, settings.draws, name) for name, model in models.items()}
    found = scores["avae"].found
    rotations = metrics.net_rotation(params.model.transform, found.alpha, test.poses, inputs.transform)
    key, uncertain = jax.random.key(inputs.seed), least_certain(params, test.images, settings)
    numbers = {
        "n_test": len(test.images),
        "draws": settings.draws,
        "floor": least_loss(params, test.images),
        "bound": comparison.bounds(models, test.images, settings),
        "gain": comparison.gain(
            {name: (score.no_search["sampled"], score.search["sampled"]) for name, score in scores.items()},
            same_size=baseline is not None and baseline.model.networks == params.model.networks,
        ),
        "loss": {name: _loss_numbers(score) for name, score in scores.items()},
        "search": _search_quality(params, test.images, found, settings),
        "health": health(params, test.images)._asdict(),
        "curve": loss_curves(models, inputs.grey, settings.curve_step, inputs.binarize, key, inputs.background),
        "orientation": _orientation(rotations, test.labels, inputs.class_names),
        "mirrored": metrics.mirror_images(params.model.transform, found.alpha, rotations, labels),
        "clusters": {"accuracy": metrics.cluster_accuracy(found.latent, test.labels) if inputs.class_names else None},
        "posterior": uncertain.numbers if uncertain else None,
        "speed": speed(params, test.images),
    }
    numbers["seconds"] = time.perf_counter() - start
    points = Points(test.images, np.asarray(found.canonical), np.asarray(found.latent), test.labels)
    pictures, along = chosen(test, found, baseline), strips(params, points.latent)
    return Results(numbers, rotations, test.labels, pictures, uncertain, points, along)


def _score(params: Params, inputs: Inputs, draws: int, name: str) -> _Scores:
    """Losses of every test image, with the same random numbers for every model."""

    def score(x: Array, upright: Array, index: Array) -> _Scores:
        key = jax.random.fold_in(jax.random.key(0), int(index[0]))
        found = align(params, x)
        plain = {
            "sampled": sampled_loss(params, x, None, key, draws),
            "at_mean": plain_loss(params, x),
            "squared_error": squared_error(x, plain_reconstruction(params, x)),
        }
        searched = {
            "sampled": sampled_loss(params, x, found.alpha, key, draws),
            "at_mean": found.loss,
            "squared_error": squared_error(x, found.reconstruction),
        }
        return _Scores(
            plain, searched, {"no_search": plain_loss(params, upright), "search": align(params, upright).loss}, found
        )

    images = inputs.test.images
    return over_batches(score, (images, inputs.upright, np.arange(len(images))), f"{name}, test images")


def _search_quality(params: Params, images: np.ndarray, found: Alignment, settings: Evaluation) -> dict[str, Any]:
    """The model's own search against many more starts (all of a finite family), the best refined by Gauss-Newton."""
    images = images[: settings.n_exhaustive]
    few = min(4, settings.n_angles)
    dense = {"n_starts": settings.n_angles, "twin": 1, "top_k": few, "n_refined": 4, "n_steps": 10}
    losses = over_batches(lambda x: align(params, x, search=dense).loss, (images,), "exhaustive search")
    default = found.loss[: len(images)]
    return {
        "n_images": len(images),
        "n_angles": len(params.model.transform.starts(settings.n_angles)),
        "default": mean_and_error(default),
        "exhaustive": mean_and_error(losses),
        "gap": mean_and_error(default - losses),
        "not_finite": int(np.sum(~np.asarray(found.info.finite))),
    }


def _orientation(rotations: np.ndarray, labels: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
    """How well the net orientations of each class agree, if there are any; modulo 180 degrees in the plane only."""
    if not names:
        unknown = dict.fromkeys(("mean_resultant", "error", "error_modulo_180"))
        return {"dimension": rotations.shape[-1], "classes": {}} | unknown
    resultants = metrics.class_resultants(rotations, labels)
    errors = metrics.rotation_errors(rotations, labels)
    folded = metrics.rotation_errors(rotations, labels, fold=2) if rotations.shape[-1] == 2 else None
    classes = {
        str(label): {
            "name": names[label],
            "count": int(np.sum(labels == label)),
            "resultant": resultant,
            "median_error": float(np.median(errors[labels == label])),
            "median_error_modulo_180": None if folded is None else float(np.median(folded[labels == label])),
        }
        for label, resultant in resultants.items()
    }
    return {
        "dimension": rotations.shape[-1],
        "mean_resultant": statistics.fmean(resultants.values()),
        "error": metrics.summarise_errors(errors),
        "error_modulo_180": None if folded is None else metrics.summarise_errors(folded),
        "classes": classes,
    }


def _loss_numbers(scores: _Scores) -> dict[str, Any]:
    """Means over images; and how far the loss of a posed image lies above that of the same image upright, searched."""
    means = {
        way: {key: mean_and_error(values) for key, values in getattr(scores, way).items()}
        for way in _Scores._fields[:3]
    }
    floor = scores.upright["search"]
    excess = {way: mean_and_error(getattr(scores, way)["at_mean"] - floor) for way in ("no_search", "search")}
    plain, searched = excess["no_search"]["mean"], excess["search"]["mean"]
    return means | {"excess": excess | {"ratio": searched / plain if plain > 0 else None}}
