"""A data set aligned into a folder: any number of images in bounded memory, resumed where it was stopped.

DIR/job.json      what is aligned, and by which run. A folder belongs to one job.
DIR/rows.npy      the table, written in place while the job runs
DIR/aligned.*     the aligned images, in the format, dtype and value range of the data

Batches have fixed places, so that a job that was stopped ten times writes what an undisturbed one writes.
"""

import dataclasses
import json
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from avae.align import align
from avae.data.sources.stacks import Stack
from avae.model import Params
from avae.poses import table
from avae.poses.images import Units, writer
from avae.runtime import devices
from avae.runtime.batches import at_once
from avae.runtime.files import let_go, whole, write_whole
from avae.runtime.mistake import Mistake
from avae.runtime.progress import Progress
from avae.training import run_folder
from avae.transforms.warp import warp

_warped = jax.jit(warp, static_argnames="background")


@dataclasses.dataclass(frozen=True)
class Job:
    """What is aligned, by what, where to: `described` is what it is recognised by."""

    params: Params
    stack: Stack
    out: pathlib.Path
    suffix: str
    described: dict[str, Any]
    around: np.ndarray | None = None  # known poses [N, size]
    within: float | None = None
    header: pathlib.Path | None = None  # an MRC file of which the aligned images take the sample spacing

    @property
    def n(self) -> int:
        """Images."""
        return len(self.stack.images)

    @property
    def size(self) -> int:
        """Images in a batch: a whole number on each device."""
        size = min(self.n, at_once(self.stack.images.shape[1:]))
        return -(-size // devices.count()) * devices.count()


def run(job: Job) -> np.ndarray:
    """Aligns all images, or those that are left; returns the table, mapped from its file.

    Raises:
      Mistake: if the folder holds another job, or anything else, another process is at work in it, or no image can be
        aligned.
      OSError: if something cannot be written; what was written before is kept, and the job goes on from there.
    """
    with run_folder.held(job.out):
        claim(job)
        return _run(job)


def _run(job: Job) -> np.ndarray:
    rows = _rows(job)
    pictures = writer(job.out / f"aligned{job.suffix}", job.stack.images, job.header)
    first = int(np.argmin(rows["done"])) if not rows["done"].all() else job.n
    with Progress(f"aligning into {job.out}", job.n, done=first, unit="image", every=max(1, job.n // 10)) as progress:
        for start in range(first // job.size * job.size, job.n, job.size):
            index = np.arange(start, min(start + job.size, job.n))
            if rows["done"][index].all():
                continue
            _batch(job, index, rows, pictures)
            progress.advance(len(index))
    pictures.close()
    bad = np.flatnonzero(~rows["finite"])
    if len(bad) == job.n:
        raise Mistake(f"{job.stack.what}: expected finite values, got none in any of the {job.n} images")
    if len(bad):
        named = ", ".join(map(str, bad[:10])) + (", ..." if len(bad) > 10 else "")
        print(f"{len(bad)} of {job.n} images cannot be aligned, their rows are empty: {named}", file=sys.stderr)
    return rows


def claim(job: Job) -> None:
    """Makes the folder that of this job.

    Raises:
      Mistake: if it holds another job, or anything else.
    """
    path = job.out / "job.json"
    if path.exists():
        there = json.loads(path.read_text(encoding="utf-8"))
        here = dict.fromkeys(there) | job.described
        differ = [f"{k}: {there.get(k)!r} there, {v!r} here" for k, v in here.items() if there.get(k) != v]
        if differ:
            raise Mistake(
                f"{job.out} holds other results ({'; '.join(differ)}); choose another --out, or remove this one"
            )
        return
    if job.out.exists() and (not job.out.is_dir() or any(path.name != "lock" for path in job.out.iterdir())):
        raise Mistake(f"--out: expected a new or empty folder, got {job.out}, which holds something else")
    job.out.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(job.described, indent=2) + "\n")


def _rows(job: Job) -> np.memmap:
    """The table, mapped from its file, which is made if need be."""
    model = job.params.model
    dtype = table.dtype(model.transform, _latent(job))
    path = job.out / "rows.npy"
    if path.exists():
        rows = np.load(path, mmap_mode="r+")
        if rows.dtype == dtype and len(rows) == job.n:
            return rows
    with whole(path) as draft:
        np.lib.format.open_memmap(draft, "w+", dtype, (job.n,)).flush()
    return np.load(path, mmap_mode="r+")


def _batch(job: Job, index: np.ndarray, rows: np.memmap, pictures: Any) -> None:
    """Aligns the images of one batch; the last is filled up with its last image: one shape, one program."""
    padded = np.minimum(np.arange(index[0], index[0] + job.size), job.n - 1)
    raw = np.asarray(job.stack.images[index[0] : index[-1] + 1])
    raw = raw[padded - index[0]]
    values = Units(raw, job.stack.scale)
    good = np.isfinite(values.seen).reshape(len(raw), -1).all(axis=1)
    images = np.where(good.reshape(-1, *[1] * (raw.ndim - 1)), values.seen, np.float32(0))
    model, shared = job.params.model, devices.take(images, np.arange(len(images)))
    if problem := model.likelihood.check(np.array([images.min(), images.max()], np.float32)):
        raise Mistake(f"{job.stack.what}: expected {problem}")
    around = None if job.around is None else job.around[padded]
    found = align(job.params, shared, around=around, within=job.within)
    moved = devices.fetch(_warped(shared, found.matrix, model.background))
    alpha, matrix, std, loss, latent, info = devices.fetch(
        (found.alpha, found.matrix, found.std, found.loss, found.latent, found.info)
    )
    n = len(index)
    part = np.zeros(n, rows.dtype)
    part["done"], part["finite"] = True, good[:n] & info.finite[:n]
    for name, column in (
        ("alpha", alpha), ("matrix", matrix), ("std", std), ("loss", loss), ("loss_at_identity", info.identity_loss),
        ("latent", latent),
    ):  # fmt: skip
        part[name] = column[:n]
        part[name][~part["finite"]] = np.nan
    moved = np.where(part["finite"].reshape(-1, *[1] * (raw.ndim - 1)), values.stored(moved)[:n], raw[:n])
    pictures.write(index, moved.astype(raw.dtype))
    rows[index[0] : index[-1] + 1] = part  # after the pictures: a row that is there has its picture
    rows.flush()
    for array in (job.stack.images, rows):
        let_go(array)


def _latent(job: Job) -> int:
    shape = job.stack.images.shape[1:]
    space = getattr(job.params.model.networks, "image_shape", None) or shape
    mu, _ = jax.eval_shape(job.params.model.networks.encode, job.params.weights, jnp.zeros(space, jnp.float32))
    return mu.shape[0]


def move(stack: Stack, rows: np.ndarray, path: pathlib.Path, size: int) -> None:
    """Other images, such as masks, at the poses of a table: real ones interpolated, others by the nearest pixel."""
    pictures, n = writer(path, stack.images), len(stack.images)
    order = 1 if stack.images.dtype.kind == "f" else 0
    for start in range(0, n, size):
        index = np.arange(start, min(start + size, n))
        raw, finite = np.asarray(stack.images[start : start + size]), rows["finite"][index]
        matrix = np.where(finite[:, None, None], rows["matrix"][index], np.eye(*rows["matrix"].shape[1:], dtype="f4"))
        moved = warp(raw.astype(np.float32) if order else raw, matrix, order=order)
        pictures.write(index, np.asarray(moved).astype(raw.dtype))
        let_go(stack.images)
    pictures.close()
