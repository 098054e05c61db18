"""From a config (nested mapping: `ml_collections`, or JSON read back) to frozen dataclasses, and no further.

`default()` is the mapping with every default; a file in configs/ changes some of it; `experiment(config)` turns it
into an `Experiment`, and says in a sentence what is wrong with it.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from avae import settings
from avae.data.dataset import Data
from avae.model import Model
from avae.networks.pose_network import PoseNetwork
from avae.networks.precision import PRECISIONS
from avae.networks.vae import LIKELIHOODS, MLP, NETWORKS, Conv
from avae.runtime.mistake import Mistake, at_least, suggestion
from avae.runtime.nested import check_keys, merged, plain
from avae.settings import Search
from avae.transforms import FAMILIES, Mirrored, Transform
from avae.transforms.frame import Frame

RANGES = {"max_angle": math.pi, "max_shift": 0.2, "max_scale": 1.5, "max_shear": 0.5}
TRANSFORM = {"name": "rotation", "mirror": False} | RANGES  # `mirror`: with the mirror images of all poses
# What a search is described by, and its types; None for what holds otherwise.
SEARCH: dict[str, type] = dict.fromkeys(("n_starts", "twin", "top_k", "n_refined", "n_steps"), int)
SEARCH |= {"n_local": tuple, "solver": str, "damping": float, "learning_rate": float}


@dataclasses.dataclass(frozen=True)
class Train:
    """The outer loop.

    Attributes:
      epochs: passes over the training images.
      batch_size: images per step.
      learning_rate: peak of Adam's schedule: linear warm-up, then cosine decay to a hundredth.
      warmup_steps: steps of warm-up.
      clip_norm: gradients are scaled down to this global norm.
      beta: how often the KL counts in what is trained and searched by (beta-VAE, Higgins et al. 2017). Above 1, z holds
        less, and fewer kinds of objects settle at several orientations. Losses are reported with a single KL.
      accumulate: steps whose mean gradient makes one update of the weights.
      average: decay per step of the running average of the weights that is evaluated in their place; 0 for none.
      precision: in which the networks compute while training, "float32" or "bfloat16"; all else is float32.
      search: pose search inside the step, or None to train a plain VAE.
      search_every: epochs from one full search to the next. In the others each image's last pose is refined, beside a
        few fresh starts; 1 for a full search at every step.
      seed: of the weights, the order of the data and all draws.
      log_every: steps between log lines.
      checkpoint_every: steps between checkpoints.
      keep_last: how many of the newest checkpoints are kept.
      keep_best: how many are kept besides: those before which the mean training loss, since the last, was lowest.
    """

    epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 3e-3
    warmup_steps: int = 100
    clip_norm: float = 100.0
    beta: float = 1.0
    accumulate: int = 1
    average: float = 0.0
    precision: str = "float32"
    search: Search | None = settings.training(Search())
    search_every: int = 1
    seed: int = 0
    log_every: int = 100
    checkpoint_every: int = 500
    keep_last: int = 2
    keep_best: int = 1

    def __post_init__(self) -> None:
        ones = ("epochs", "batch_size", "accumulate", "search_every", "log_every", "checkpoint_every", "keep_last")
        at_least("train", self, **dict.fromkeys(ones, 1), keep_best=0)
        if not 0 <= self.average < 1:
            raise Mistake(f"train.average: expected a decay from 0 (none) to below 1, got {self.average}")
        if self.precision not in PRECISIONS:
            raise Mistake(f"train.precision: expected one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if not 0 <= self.beta < math.inf:
            raise Mistake(f"train.beta: expected a finite weight of at least 0, got {self.beta}")
        if not (self.learning_rate > 0 and self.clip_norm > 0 and self.warmup_steps >= 0):
            raise Mistake(
                "train: expected learning_rate > 0, clip_norm > 0 and warmup_steps >= 0, got "
                f"{self.learning_rate}, {self.clip_norm} and {self.warmup_steps}"
            )


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What `eval.py` measures.

    Attributes:
      baseline_epochs: epochs of the plain VAE that `train.py` trains for comparison; 0 for none.
      draws: draws of z per image in the mean test loss.
      n_exhaustive: test images on which the exhaustive search is run.
      n_angles: angles of the exhaustive search.
      n_curve: test images behind the curve of loss against rotation angle.
      curve_step: its step in degrees.
      n_bound: test images whose log p(x) is bounded; 0 for none.
      bound_samples: draws for each bound.
    """

    baseline_epochs: int = 60
    draws: int = 8
    n_exhaustive: int = 512
    n_angles: int = 720
    n_curve: int = 256
    curve_step: int = 15
    n_bound: int = 500
    bound_samples: int = 256

    def __post_init__(self) -> None:
        least = {field.name: 1 for field in dataclasses.fields(self)}
        at_least("evaluation", self, **least | {"baseline_epochs": 0, "n_bound": 0, "bound_samples": 2})


@dataclasses.dataclass(frozen=True)
class Experiment:
    """All that a run depends on; hashable, so that it is static under `jit`."""

    data: Data
    model: Model
    train: Train
    evaluation: Evaluation


def default() -> ConfigDict:
    """Every setting with its default, to be changed by a file in configs/ and by `--config.section.name=value`.

    `model.image_shape` is that of the images; the networks take that of the canonical frame. Search settings that are
    None are those of the transform family, in training with the changes of `settings.training`.
    """
    train = dataclasses.asdict(Train()) | {"search": {"enabled": True} | _unset()}
    data = dataclasses.asdict(Data()) | {"transform": dict(TRANSFORM)}
    return ConfigDict(
        {
            "data": data,
            "model": {"name": "mlp"} | dataclasses.asdict(MLP()) | dataclasses.asdict(Conv()),
            "frame": dataclasses.asdict(Frame()),
            "likelihood": {"name": "bernoulli", "floor": 1e-4, "scale": config_dict.placeholder(float)},
            "transform": dict(TRANSFORM),
            "search": _unset(),
            "pose_network": {"enabled": False} | dataclasses.asdict(PoseNetwork()),
            "train": train,
            "evaluation": dataclasses.asdict(Evaluation()),
        }
    )


def experiment(config: Mapping[str, Any] | ConfigDict) -> Experiment:
    """The `Experiment` that a config describes.

    Raises:
      Mistake: for unknown names (with a suggestion), wrong types and values out of range.
    """
    given = plain(config)
    check_keys("config", given, plain(default()))
    given = complete(given)
    train, search = given["train"], given["train"]["search"]
    model = _model(given)
    model = dataclasses.replace(model, search=_search("search", given["search"], settings.plan(model).search))
    training = _search("train.search", search, settings.training_of(model.transform)) if search["enabled"] else None
    for described in (model.search, training):
        settings.plan(model, described)  # raises where they do not go with the images
    if training is None and model.pose_network is not None:
        raise Mistake("pose_network.enabled: expected False where train.search.enabled is: it learns from the search")
    data = _build(Data, "data", given["data"] | {"transform": _transform("data.transform", given["data"]["transform"])})
    if train["search_every"] > 1 and (training is None or data.pose == "fresh"):
        why = "train.search.enabled is False" if training is None else 'data.pose is "fresh"'
        raise Mistake(
            f"train.search_every: expected 1, got {train['search_every']}: {why}, so that there is no pose to remember"
        )
    return Experiment(
        data=data,
        model=model,
        train=_build(Train, "train", train | {"search": training}),
        evaluation=_build(Evaluation, "evaluation", given["evaluation"]),
    )


def complete(config: Mapping[str, Any] | ConfigDict) -> dict[str, Any]:
    """A plain config with a value for every search setting: what a run keeps on disk, so that it says all of it.

    Settings that the config does not have at all, being older than they are, take their defaults.
    """
    given = merged("config", plain(default()), plain(config))
    model = _model(given)
    search = _filled(given["search"], settings.plan(model).search)
    training = _filled(given["train"]["search"], settings.training_of(model.transform))
    return given | {"search": search, "train": given["train"] | {"search": training}}


def _model(given: Mapping[str, Any]) -> Model:
    """What a complete config says of the model, but for its search settings."""
    frame = _build(Frame, "frame", given["frame"])
    shape = {"image_shape": frame.shape(given["model"]["image_shape"])}
    network = _build(PoseNetwork, "pose_network", given["pose_network"]) if given["pose_network"]["enabled"] else None
    return Model(
        networks=_choose("model", NETWORKS, given["model"] | shape),
        likelihood=_choose("likelihood", LIKELIHOODS, given["likelihood"]),
        transform=_transform("transform", given["transform"]),
        frame=frame,
        pose_network=network,
    )


def _unset() -> dict[str, Any]:
    """The settings of a search without values, each with its type."""
    return {name: config_dict.placeholder(type_) for name, type_ in SEARCH.items()}


def _filled(given: Mapping[str, Any], default: Search) -> dict[str, Any]:
    """The settings of a search, with those of `default` for what is None."""
    solver = {kind: name for name, kind in settings.SOLVERS.items()}[type(default.solver)]
    known = vars(default) | {"solver": solver} | vars(default.solver)
    return {name: known.get(name) if value is None else value for name, value in given.items()}


def _search(section: str, given: Mapping[str, Any], default: Search) -> Search:
    """The search that a config describes, with `default` for what it leaves open."""
    filled = _filled(given, default)
    solver = _choose(section, settings.SOLVERS, filled | {"name": filled["solver"]}, "solver")
    return _build(Search, section, filled | {"solver": solver})


def _transform(section: str, settings: Mapping[str, Any]) -> Transform:
    family = _choose(section, FAMILIES, settings)
    if settings["mirror"] not in (True, False):
        raise Mistake(f"{section}.mirror: expected True or False, got {settings['mirror']!r}")
    return Mirrored(family) if settings["mirror"] else family


def _choose(section: str, choices: Mapping[str, Any], settings: Mapping[str, Any], what: str = "name") -> Any:
    """The named class, given those of the settings that it has and that are not None."""
    name = settings["name"]
    if name not in choices:
        hint = suggestion(name, choices)
        raise Mistake(f"{section}.{what}: expected one of {', '.join(choices)}, got {name!r}{hint}")
    return _build(choices[name], section, settings)


def _build(cls: Any, section: str, settings: Mapping[str, Any]) -> Any:
    fields = {field.name for field in dataclasses.fields(cls)}
    try:
        return cls(**{key: value for key, value in settings.items() if key in fields})
    except TypeError as error:
        raise Mistake(f"{section}: a setting has the wrong type: {error}") from None
