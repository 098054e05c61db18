"""From a config (nested mapping: `ml_collections`, or JSON read back) to frozen dataclasses, and no further.

`default()` is the mapping with every default. A file in configs/ changes some of them. `experiment(config)` turns the
mapping into an `Experiment`, or raises a `Mistake` that says what is wrong with it.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict, config_dict

from avae import settings
from avae.data.described import AUTO, OLD, Data
from avae.experiment import Evaluation as Evaluation, Experiment as Experiment, Train as Train
from avae.model import Model
from avae.networks.mask import Mask
from avae.networks.pose_network import PoseNetwork
from avae.networks.vae import LIKELIHOODS, MLP, NETWORKS, Conv
from avae.runtime.files import expanded
from avae.runtime.mistake import Mistake, suggestion
from avae.runtime.nested import check_keys, merged, plain
from avae.settings import Search
from avae.transforms import FAMILIES, Mirrored, Transform
from avae.transforms.frame import Frame

RANGES = {"max_angle": math.pi, "max_shift": 0.2, "max_scale": 1.5, "max_shear": 0.5}
TRANSFORM = {"name": "rotation", "mirror": False, "spacing": (1.0, 1.0, 1.0)} | RANGES  # `mirror`: and mirror images
# What a search is described by, and its types; None for what holds otherwise.
SEARCH: dict[str, type] = dict.fromkeys(("n_starts", "twin", "top_k", "n_refined", "n_steps", "n_settle"), int)
SEARCH |= {"n_local": tuple, "solver": str, "damping": float, "learning_rate": float}


def default() -> ConfigDict:
    """Every setting with its default, to be changed by a file in configs/ and by `--config.section.name=value`.

    `model.image_shape` is that of the images; the networks take that of the canonical frame. Search settings that are
    None are those of the transform family, in training with the changes of `settings.training`.
    """
    none = config_dict.placeholder
    train = dataclasses.asdict(Train()) | {"search": {"enabled": True} | _unset()}
    background = config_dict.FieldReference(AUTO, field_type=object)  # a string, a number or a tuple
    data = dataclasses.asdict(Data()) | {"transform": dict(TRANSFORM), "background": background}
    data["masks"] = none(bool)
    return ConfigDict(
        {
            "data": data,
            "model": {"name": "mlp"} | dataclasses.asdict(MLP()) | dataclasses.asdict(Conv()),
            "frame": dataclasses.asdict(Frame()),
            "likelihood": {"name": "bernoulli", "floor": 1e-4, "scale": none(float), "gain": 0.0, "offset": 0.0}
            | {"mask": none(str)},
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
    training = _search("train.search", search, settings.training_of(model)) if search["enabled"] else None
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
    if train["poses"] and (training is None or not model.transform.dof or data.pose != "as_is"):
        raise Mistake(
            "train.poses: expected train.search.enabled, a family that is no finite set and data.pose=as_is, got "
            f"{search['enabled']}, {model.transform} and {data.pose}"
        )
    return Experiment(
        data=data,
        model=dataclasses.replace(model, background=data.outside, mask=_mask(given["likelihood"]["mask"], model)),
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
    training = _filled(given["train"]["search"], settings.training_of(model))
    renamed = {key: "as_is" for key in ("pose", "test_pose") if given["data"][key] == OLD}
    return given | {"data": given["data"] | renamed, "search": search, "train": given["train"] | {"search": training}}


def _model(given: Mapping[str, Any]) -> Model:
    """What a complete config says of the model, but for its search settings."""
    frame = _build(Frame, "frame", given["frame"])
    shape = {"image_shape": frame.shape(given["model"]["image_shape"])}
    likelihood = _choose("likelihood", LIKELIHOODS, given["likelihood"])
    for name in ("gain", "offset"):
        if given["likelihood"][name] and not hasattr(likelihood, name):
            raise Mistake(
                f"likelihood.{name}: expected 0 for the {given['likelihood']['name']} likelihood, got "
                f"{given['likelihood'][name]}: only likelihood.name=gaussian has images of any brightness"
            )
    network = _build(PoseNetwork, "pose_network", given["pose_network"]) if given["pose_network"]["enabled"] else None
    return Model(
        networks=_choose("model", NETWORKS, given["model"] | shape),
        likelihood=likelihood,
        transform=_transform("transform", given["transform"]),
        frame=frame,
        pose_network=network,
    )


def _mask(name: str | None, model: Model) -> Mask | None:
    """The mask that `likelihood.mask` names: none, a disc, or what a .npy file holds."""
    *space, _ = model.image_shape or (0,)
    if name is None or name == "disc":
        return None if name is None else Mask.disc(tuple(space))
    try:
        weights = np.load(expanded(name), allow_pickle=False)
    except (OSError, ValueError, TypeError, EOFError) as error:
        wanted = 'None, "disc" or the path of a .npy file'
        raise Mistake(f"likelihood.mask: expected {wanted}, got {name!r} ({error})") from None
    return Mask.of(weights[..., None] if np.ndim(weights) == len(space) else weights)


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
    if len(set(settings["spacing"])) > 1 and not hasattr(family, "spacing"):
        raise Mistake(f"{section}.spacing: expected equal lengths for {settings['name']}, got {settings['spacing']}")
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
