"""Configs that older versions kept in the folders of their runs."""

from collections.abc import Mapping
from typing import Any

from avae.runtime.mistake import Mistake
from avae.runtime.nested import flatten, without

VERSION = 1  # of the configs that runs keep on disk; `migrate` brings older ones to it
REMOVED: dict[str, Any] = {  # settings of older versions, with the value at which they did nothing
    "train.beta_start": None,
    "frame.resolution": 1,
} | {
    f"{section}.{name}": idle
    for section in ("search", "train.search")
    for name, idle in {"starts": "stratified", "precision": "float32"}.items()
}


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
        config = without(config, name)
    if version == 0:
        for section in ("search", "train.search"):
            config = _with_new_search(config, section)
    if isinstance(data := config.get("data"), Mapping):
        config = {**config, "data": {"background": 0.0, **data}}  # what older versions filled with
    return dict(config)


def removed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an older config that no longer exist and did something, as {"section.name": value}."""
    flat = flatten(config)
    return {name: flat[name] for name, idle in REMOVED.items() if flat.get(name, idle) != idle}


def _with_new_search(config: Mapping[str, Any], section: str) -> dict[str, Any]:
    """A config of version 0 whose search in `section` is described as in version 1."""
    key, _, rest = section.partition(".")
    if rest or not isinstance(config.get(key), Mapping):
        inner = config.get(key)
        return {**config, key: _with_new_search(inner, rest)} if rest and isinstance(inner, Mapping) else dict(config)
    old = dict(config[key])
    for name in ("n_full", "n_rounds", "chunk", "memory"):
        old.pop(name, None)
    if "coarse" in old:
        old["twin"] = old.pop("coarse")
    if isinstance(n := old.get("n_local"), int):
        old["n_local"] = (n,) * (config[key].get("n_rounds", 1) if n else 0)
    if old.get("n_refined") == 0:  # the best pose around each kept start
        old["n_refined"] = old.get("top_k")
    return {**config, key: old}
