"""The sets that the package carries: digits, cells and furniture."""

import importlib.resources

import numpy as np

from avae.data.sources import meshes
from avae.data.sources.stacks import Stack
from avae.data.sources.walk import PARTS

EMBEDDED = {"digits": 2, "cells": 2, "furniture": 3}  # name: dimension


def read(name: str) -> tuple[Stack, Stack]:
    """The training and test stack of an embedded set; twice the same if it has no split."""
    return {"digits": _digits, "cells": _cells, "furniture": _furniture}[name]()


def _digits() -> tuple[Stack, Stack]:
    raw = _archive("digits")
    train, test = (Stack(raw[f"{part}_images"][..., None], raw[f"{part}_labels"], "embedded digits") for part in PARTS)
    return train, test


def _cells() -> tuple[Stack, Stack]:
    raw = _archive("cells")
    labels = np.char.add(np.char.add(raw["line"], ", "), raw["treatment"])
    stack = Stack(raw["images"][..., None], labels, "embedded cells")
    return stack, stack


def _furniture() -> tuple[Stack, Stack]:
    raw = _archive("furniture")
    voxels = np.unpackbits(raw["voxels"], axis=1).astype(bool).reshape(-1, 32, 32, 32)
    stack = Stack(meshes.stand(voxels)[..., None], raw["category"], "embedded pieces of furniture")
    return stack, stack


def _archive(name: str) -> dict[str, np.ndarray]:
    with (
        importlib.resources.as_file(importlib.resources.files("avae.data") / name / f"{name}.npz") as path,
        np.load(path) as raw,
    ):
        return dict(raw)
