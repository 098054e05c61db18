"""Trained models in a small folder: config.json, data.json and weights.npz in float16; the package carries some.

`tools/make_weights.py` makes them. Nothing is unpickled.
"""

import json
import os
import pathlib
import zipfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from avae.generate import init
from avae.model import Model, Params
from avae.runtime.files import expanded, write_whole
from avae.runtime.mistake import Mistake, suggestion

SHIPPED = {
    "digits": "rotated digits, 28x28, 16 latents, by configs/rot_mnist.py",
    "furniture": "furniture at the 24 rotations of the cube, 32x32x32, 8 latents",
}
FOLDER = pathlib.Path(__file__).parent.parent / "weights"
FILE = "weights.npz"


def place(run: str | os.PathLike[str]) -> pathlib.Path:
    """The folder of a run; that of shipped weights if `run` is their name and no run is in a folder of that name.

    Raises:
      Mistake: if `run` names shipped weights whose files are missing from the installation.
    """
    folder = expanded(run)
    if not is_shipped(run):
        return folder
    folder = FOLDER / os.fspath(run)
    missing = [name for name in ("config.json", FILE) if not (folder / name).is_file()]
    if missing:
        raise Mistake(
            f"{os.fspath(run)}: this installation of avae lacks {' and '.join(missing)} in {folder}; install it again"
        )
    return folder


def is_shipped(run: str | os.PathLike[str]) -> bool:
    """Whether `run` is the name of shipped weights, and no run in a folder of that name."""
    return os.fspath(run) in SHIPPED and not (expanded(run) / "config.json").exists()


def hint(run: str | os.PathLike[str]) -> str:
    """For a message about a run that is not there: the shipped weights that may have been meant."""
    return suggestion(pathlib.Path(run).name, SHIPPED, f"; weights in the package: {', '.join(SHIPPED)}")


def write(folder: pathlib.Path, params: Params, config: dict[str, Any], data: dict[str, Any]) -> None:
    """Writes a model into `folder`: what `config.json` and `data.json` of its run hold, and its weights in float16."""
    folder.mkdir(parents=True, exist_ok=True)
    with np.errstate(over="ignore"):
        arrays = {name: np.asarray(leaf, np.float16) for name, leaf in _named(params.weights).items()}
    if not all(np.isfinite(leaf).all() for leaf in arrays.values()):
        raise Mistake("weights: expected finite values that float16 can hold")
    np.savez_compressed(folder / FILE, **arrays)  # type: ignore[reportArgumentType]
    for name, content in (("config", config), ("data", data)):
        write_whole(folder / f"{name}.json", json.dumps(content, indent=2) + "\n")


def read(folder: pathlib.Path, model: Model) -> Params:
    """The `Params` of a model whose weights are in `folder`, float32.

    Raises:
      Mistake: if they cannot be read, or are not those of the model.
    """
    wanted = jax.eval_shape(lambda key: init(key, model), jax.random.key(0))
    names, path = _named(wanted.weights), folder / FILE
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:  # TypeError: a single array
        raise Mistake(f"{path}: expected the weights of a model ({error})") from None
    shapes = {name: leaf.shape for name, leaf in found.items()}
    if shapes != {name: leaf.shape for name, leaf in names.items()}:
        raise Mistake(f"{path}: expected the {len(names)} arrays of {model.networks}, got {shapes}")
    leaves = [jnp.asarray(found[name], leaf.dtype) for name, leaf in names.items()]
    return jax.tree.unflatten(jax.tree.structure(wanted), leaves)


def _named(weights: Any) -> dict[str, Any]:
    """The leaves of a tree, each by its path, as in "params/encoder/kernel"."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(weights)
    }
