"""Nested mappings of settings: sections of sections, as `ml_collections` and JSON hold them."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from avae.runtime.mistake import Mistake, suggestion


def plain(config: Any) -> Any:
    """A config as plain dicts, with tuples for lists (JSON knows no tuples)."""
    if isinstance(config, ConfigDict):
        config = config.to_dict()
    if isinstance(config, Mapping):
        return {key: plain(value) for key, value in config.items()}
    return tuple(plain(value) for value in config) if isinstance(config, list | tuple) else config


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested config as {"section.name": value}."""
    flat = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def merged(section: str, base: Mapping[str, Any], changes: Any) -> dict[str, Any]:
    """`base` with `changes`, section by section."""
    if not isinstance(changes, Mapping):
        raise Mistake(f"{section}: expected a section of settings, got {changes!r}")
    result = dict(base)
    for key, value in changes.items():
        inner = base.get(key)
        result[key] = merged(f"{section}.{key}", inner, value) if isinstance(inner, Mapping) else value
    return result


def check_keys(section: str, given: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Raises Mistake if `given` lacks a setting of `known`, or has another; suggests which one was meant."""
    missing, unknown = sorted(known.keys() - given.keys()), sorted(given.keys() - known.keys())
    if unknown:
        hint = suggestion(unknown[0], known, f"; known are {', '.join(sorted(known))}")
        raise Mistake(f"{section}: unknown setting {unknown[0]!r}{hint}")
    if missing:
        raise Mistake(f"{section}: missing setting(s) {', '.join(missing)}")
    for key, value in known.items():
        if isinstance(value, Mapping):
            if not isinstance(given[key], Mapping):
                raise Mistake(f"{section}.{key}: expected a section of settings, got {given[key]!r}")
            check_keys(f"{section}.{key}", given[key], value)


def without(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A config without the setting "section.name"."""
    key, _, rest = name.partition(".")
    if rest and isinstance(config.get(key), Mapping):
        return {**config, key: without(config[key], rest)}
    return config if rest else {other: value for other, value in config.items() if other != key}
