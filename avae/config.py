"""From a config (nested mapping: `ml_collections`, or JSON read back) to frozen dataclasses, and no further.

`default()` is the mapping with every default; a file in configs/ changes some of it; `experiment(config)` turns it
into an `Experiment`, and says in a sentence what is wrong with it.
"""

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Any, get_args

from ml_collections import ConfigDict, config_dict

from avae.data.dataset import Data
from avae.model import Frame, Model
from avae.networks.pose_network import PoseNetwork
from avae.networks.vae import LIKELIHOODS, MLP, NETWORKS, Conv
from avae.runtime.mistake import Mistake
from avae.settings import PRECISIONS, Search
from avae.transforms import FAMILIES, Transform

VERSION = 1  # of the configs that runs keep on disk; `migrate` brings older ones to it
REMOVED: dict[str, Any] = {  # settings of older versions, with the value at which they did nothing
    "train.beta_start": None,
}
TRANSFORM = {
    "name": "rotation",
    "max_angle": math.pi,
    "max_shift": 0.2,
    "max_scale": 1.5,
    "max_shear": 0.5,
}  # ranges, where a family has them


def train_search(family: Search) -> Search:
    """The search inside a training step, from that of inference: fewer poses and steps after the starts, and for large
    families fewer starts.

    Never fewer than 32 starts, each drawn anew in its stratum at every step: half as many reach the same loss on
    rotated digits, but leave more classes at two orientations, for an image between two starts settles where one of
    them happens to fall.
    """
    return dataclasses.replace(
        family,
        n_starts=min(family.n_starts, 64),
        top_k=min(family.top_k, 2),
        n_local=min(family.n_local, 4),
        n_refined=0,
        n_steps=min(family.n_steps, 3),
    )


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
    search: Search | None = train_search(Search())
    search_every: int = 1
    seed: int = 0
    log_every: int = 100
    checkpoint_every: int = 500
    keep_last: int = 2
    keep_best: int = 1

    def __post_init__(self) -> None:
        for name in (
            "epochs",
            "batch_size",
            "accumulate",
            "search_every",
            "log_every",
            "checkpoint_every",
            "keep_last",
        ):
            if getattr(self, name) < 1:
                raise Mistake(f"train.{name}: expected at least 1, got {getattr(self, name)}")
        if self.keep_best < 0:
            raise Mistake(f"train.keep_best: expected at least 0, got {self.keep_best}")
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
        least = {"baseline_epochs": 0, "n_bound": 0, "bound_samples": 2}
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < (low := least.get(field.name, 1)):
                raise Mistake(f"evaluation.{field.name}: expected at least {low}, got {getattr(self, field.name)}")


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
    None are those of the transform family, in training with the changes of `train_search`.
    """
    train = dataclasses.asdict(Train()) | {"search": {"enabled": True} | _unset(Search)}
    data = dataclasses.asdict(Data()) | {"transform": dict(TRANSFORM)}
    return ConfigDict(
        {
            "data": data,
            "model": {"name": "mlp"} | dataclasses.asdict(MLP()) | dataclasses.asdict(Conv()),
            "frame": dataclasses.asdict(Frame()),
            "likelihood": {"name": "bernoulli", "floor": 1e-4, "scale": config_dict.placeholder(float)},
            "transform": dict(TRANSFORM),
            "search": _unset(Search),
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
    known = plain(default())
    _check_keys("config", given, known)
    given = complete(given)
    train = dict(given["train"])
    search = dict(train.pop("search"))
    training = _build(Search, "train.search", search) if search.pop("enabled") else None
    model = dataclasses.replace(_model(given), search=_build(Search, "search", given["search"]))
    for settings in (model.search, training):
        model.settings(settings)  # raises where they do not go with the images
    if training is None and model.pose_network is not None:
        raise Mistake("pose_network.enabled: expected False where train.search.enabled is: it learns from the search")
    posed = {"transform": _transform("data.transform", given["data"]["transform"])}
    data = _build(Data, "data", given["data"] | posed)
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


def plain(config: Any) -> Any:
    """A config as plain dicts, with tuples for lists (JSON knows no tuples)."""
    if isinstance(config, ConfigDict):
        config = config.to_dict()
    if isinstance(config, Mapping):
        return {key: plain(value) for key, value in config.items()}
    return tuple(plain(value) for value in config) if isinstance(config, list | tuple) else config


def complete(config: Mapping[str, Any] | ConfigDict) -> dict[str, Any]:
    """A plain config with a value for every search setting: what a run keeps on disk, so that it says all of it.

    Settings that the config does not have at all, being older than they are, take their defaults.
    """
    given = _merged("config", plain(default()), plain(config))
    model = _model(given)
    search = _filled(given["search"], model.settings())
    training = _filled(given["train"]["search"], train_search(model.transform.search))
    return given | {"search": search, "train": given["train"] | {"search": training}}


def migrate(config: Any) -> dict[str, Any]:
    """A plain config that a run of any version kept, as this version would have written it, without its version.

    Settings that no longer exist are left out: `removed` gives those that did something.

    Raises:
      Mistake: if a newer version wrote it.
    """
    if not isinstance(config, Mapping):
        raise Mistake(f"config: expected a section of settings, got {config!r}")
    version = config.get("version", 0)
    if not isinstance(version, int) or version > VERSION:
        raise Mistake(
            f"config.version: expected at most {VERSION}, got {version!r}: a newer avae wrote this config; "
            "use that version, or a newer one"
        )
    for name in ("version", *REMOVED):
        config = _without(config, name)
    return dict(config)


def removed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an older config that no longer exist and did something, as {"section.name": value}."""
    flat = flatten(config)
    return {name: flat[name] for name, idle in REMOVED.items() if flat.get(name, idle) != idle}


def _without(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A config without the setting "section.name"."""
    key, _, rest = name.partition(".")
    if rest and isinstance(config.get(key), Mapping):
        return {**config, key: _without(config[key], rest)}
    return config if rest else {other: value for other, value in config.items() if other != key}


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


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested config as {"section.name": value}."""
    flat = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _unset(cls: type) -> dict[str, Any]:
    """The settings of `cls` without values, each of the type of its default."""
    types = {field.name: (*get_args(field.type), field.type)[0] for field in dataclasses.fields(cls)}
    return {name: config_dict.placeholder(type_) for name, type_ in types.items()}


def _filled(settings: Mapping[str, Any], defaults: Search) -> dict[str, Any]:
    """Settings, with those of `defaults` for what is None."""
    return {name: getattr(defaults, name) if value is None else value for name, value in settings.items()}


def _merged(section: str, base: Mapping[str, Any], changes: Any) -> dict[str, Any]:
    """`base` with `changes`, section by section."""
    if not isinstance(changes, Mapping):
        raise Mistake(f"{section}: expected a section of settings, got {changes!r}")
    merged = dict(base)
    for key, value in changes.items():
        inner = base.get(key)
        merged[key] = _merged(f"{section}.{key}", inner, value) if isinstance(inner, Mapping) else value
    return merged


def _check_keys(section: str, given: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    missing, unknown = sorted(known.keys() - given.keys()), sorted(given.keys() - known.keys())
    if unknown:
        close = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(sorted(known))}"
        raise Mistake(f"{section}: unknown setting {unknown[0]!r}{hint}")
    if missing:
        raise Mistake(f"{section}: missing setting(s) {', '.join(missing)}")
    for key, value in known.items():
        if isinstance(value, Mapping):
            if not isinstance(given[key], Mapping):
                raise Mistake(f"{section}.{key}: expected a section of settings, got {given[key]!r}")
            _check_keys(f"{section}.{key}", given[key], value)


def _transform(section: str, settings: Mapping[str, Any]) -> Transform:
    return _choose(section, FAMILIES, settings)


def _choose(section: str, choices: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
    """The named class, given those of the settings that it has."""
    name = settings["name"]
    if name not in choices:
        close = difflib.get_close_matches(str(name), choices, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise Mistake(f"{section}.name: expected one of {', '.join(choices)}, got {name!r}{hint}")
    return _build(choices[name], section, settings)


def _build(cls: Any, section: str, settings: Mapping[str, Any]) -> Any:
    fields = {field.name for field in dataclasses.fields(cls)}
    try:
        return cls(**{key: value for key, value in settings.items() if key in fields})
    except TypeError as error:
        raise Mistake(f"{section}: a setting has the wrong type: {error}") from None
