"""`avae.fit`: a model of one's own images in one line."""

import os
import pathlib
import sys
import tempfile
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from avae import choose
from avae.config import experiment
from avae.model import Params
from avae.runtime.files import expanded, whole
from avae.runtime.mistake import Mistake
from avae.runtime.progress import quiet, say
from avae.training import loop, run_folder
from avae.training.checkpoint import load
from avae.transforms.background import estimate_background


def fit(
    x: ArrayLike,
    *,
    transform: str | None = None,
    latent: int | None = None,
    likelihood: str | None = None,
    epochs: int | None = None,
    mirror: bool = False,
    background: float | tuple[float, ...] | None = None,
    batch_size: int | None = None,
    spacing: tuple[float, float, float] | None = None,
    poses: ArrayLike | None = None,
    start: str | os.PathLike[str] | None = None,
    workdir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Params:
    """Trains an AVAE on images as they are, with the search on; then `avae.align(params, x)` finds their poses.

    What is not given is chosen from the images (`avae.choose`): a line for each choice goes to standard error.

    Args:
      x: images [N, H, W] or [N, H, W, C], or volumes [N, D, H, W] or [N, D, H, W, C]: 8-bit, bool or real numbers. A
        last axis of more than four is one of space. A masked array whose images all lack the same pixels gives the
        model that mask: those pixels never count.
      transform: name of a family, such as "rotation", "rigid" or "affine"; `avae.transforms.FAMILIES` has all.
      latent: number of latent variables.
      likelihood: "bernoulli" or "gaussian".
      epochs: passes over the images.
      mirror: whether objects may be seen in a mirror.
      background: the level outside of the images, in the values of x, one number or one per channel; None to take the
        median of their border pixels.
      batch_size: images per step.
      spacing: lengths of a voxel of volumes along x, y, z (the last axis of space first), where they are not equal:
        turns are then turns in space.
      poses: known poses [N, size] of the family, or nearly so: the search begins near them, and they are among its
        starts from then on.
      start: the folder of a run on images of this shape, whose weights are the first ones.
      workdir: the folder of the run: called again with it and the same images, training goes on where it was stopped,
        and `avae.load(workdir)` gives what is there. None for a temporary one, which is removed.
      seed: of the weights, the split, and all draws.
      progress: whether to show how far training is, and what was chosen.

    Returns:
      `Params` that take raw images of the kind of x: see `Model.values`.

    Raises:
      Mistake: if x is not such an array, an argument has a wrong value, or `workdir` holds another run.
    """
    x, mask = _unmasked(x, background)
    images = _images(x)
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch) / "run" if workdir is None else expanded(workdir)
        source = folder.with_name(f"{folder.name}.images.npy") if workdir is None else folder / "images.npy"
        _keep(source, images)
        if mask is not None:
            _keep(source.with_suffix(".mask.npy"), mask)
        if poses is not None:
            _keep(source.with_suffix(".poses.npy"), np.asarray(poses, np.float32))
        seen = choose.look(str(source))
        options: dict[str, Any] = {"transform": transform, "latent": latent, "likelihood": likelihood, "seed": seed}
        options |= {
            "epochs": epochs,
            "mirror": mirror,
            "background": background,
            "batch_size": batch_size,
            "start": start,
            "spacing": spacing,
            "poses": None if poses is None else str(source.with_suffix(".poses.npy")),
            "mask": None if mask is None else str(source.with_suffix(".mask.npy")),
        }
        config, choices = choose.chosen(seen, options)
        if progress:
            say(choose.as_text(choices), sys.stderr)
        with quiet(not progress):
            run_folder.check(folder, config)
            loop.fit(experiment(config), folder, config)
        return load(folder)


def _unmasked(x: ArrayLike, background: Any) -> tuple[ArrayLike, np.ndarray | None]:
    """Images with the background where they are masked, and the mask that is common to all of them, True where not."""
    if not np.ma.is_masked(x):
        return np.ma.getdata(x) if np.ma.isMaskedArray(x) else x, None
    images = np.ma.asanyarray(x)
    holes = np.ma.getmaskarray(images)
    if (differ := (holes != holes[:1]).reshape(len(holes), -1).any(axis=1)).any():
        raise Mistake(
            f"x: expected the same pixels masked in every image to train on, but {differ.sum()} of {len(holes)} differ "
            f"from the first, such as {differ.argmax()}; avae.align takes any: train on images that are whole, or fill "
            "what is masked here"
        )
    if background is None:
        coloured = images if images.ndim > 3 and images.shape[-1] <= 4 else images[..., None]
        background = estimate_background(coloured)
    return np.where(holes, np.asarray(background), images.data).astype(images.dtype), ~holes[0]


def _images(x: ArrayLike) -> np.ndarray:
    images = np.asarray(x)
    if images.ndim not in (3, 4, 5) or 0 in images.shape:
        raise Mistake(f"x: expected images [N, H, W(, C)] or volumes [N, D, H, W(, C)], got shape {images.shape}")
    if images.dtype.kind in "iu" and images.dtype != np.uint8:
        images = images.astype(np.float32)
    if images.dtype.kind not in "bfu":
        raise Mistake(f"x: expected 8-bit, bool or real numbers, got dtype {images.dtype}")
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        bad = ~np.isfinite(images).reshape(len(images), -1).all(axis=1)
        raise Mistake(f"x: expected finite values, got NaN or infinity in {bad.sum()} image(s), first {bad.argmax()}")
    return images


def _keep(path: pathlib.Path, images: np.ndarray) -> None:
    """An array beside the run, so that it can go on; one that is there already must be the same."""
    if path.exists():
        there = np.load(path, mmap_mode="r", allow_pickle=False)
        if there.shape == images.shape and there.dtype == images.dtype and np.array_equal(there, images):
            return
        raise Mistake(f"workdir: {path.parent} holds a run on other images; choose another one, or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as draft:
        np.save(draft, images)
