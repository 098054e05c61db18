"""A folder of poses, from a run and a data set to what people and tools open."""

import hashlib
import pathlib
from collections.abc import Sequence

import jax
import numpy as np

from avae.checks import check_poses
from avae.data import known, sources
from avae.data.described import Data
from avae.data.sources.lazy import Lazy
from avae.data.sources.stacks import Stack, index
from avae.evaluation.averages import averages
from avae.model import Params
from avae.poses import export, images, page, stream, table
from avae.runtime.files import expanded
from avae.runtime.mistake import Mistake
from avae.training import run_folder
from avae.training.checkpoint import load


def align_source(
    run: pathlib.Path,
    name: str,
    out: pathlib.Path,
    *,
    also: Sequence[str] = (),
    best: bool = False,
    fit: str = "",
    around: str = "",
    within: float | None = None,
) -> pathlib.Path:
    """Aligns all examples of a source, training and test, by the run in a folder; goes on where it was stopped.

    Writes into `out`: poses.csv and poses.npz (see columns.txt), the aligned images, averages per label or cluster of
    latents, the worst explained images, and index.html, which shows them. Masks or channels of the same images may be
    given as `also`: the same poses move them. Images of another size than the run's are fitted by `fit`, by default as
    those of the run were. With `around`, the name of known poses (`avae.data.known`), the search stays near them.

    Raises:
      Mistake: if there is no run, the data are not of the kind it was trained on, or `out` holds something else.
    """
    params, described = load(run, best=best, as_read=True), run_folder.load_experiment(run)
    space = (params.model.image_shape or ())[:-1]
    family = params.model.transform
    dim = described.data.transform.dim
    by = sources.Fit(fit or described.data.fit, tuple(space))
    labels = by._replace(labels=True)
    stack, words = _all(name, described.data, by)
    images.check_spacing(stack, family)
    images.check_shape(stack, params.model.image_shape)
    others = {pathlib.Path(other).name: sources.stored(other, dim, fit=labels)[0] for other in also}
    for other in others.values():
        images.check_beside(other, stack)
    source, job_suffix = pathlib.Path(name), images.suffix_of(name)
    near = known.read(around, name, params.model.transform, stack.images.shape[1:-1]) if around else None
    if near is not None:
        near = np.asarray(check_poses(near, len(stack.images), params.model.transform))
    job = stream.Job(
        around=near,
        within=within,
        params=params,
        stack=stack,
        out=out,
        suffix=job_suffix,
        described={
            "run": str(run.absolute()),
            "weights": _fingerprint(params),
            "data": sources.fingerprint(name, dim=dim),
            "images": len(stack.images),
        }
        | ({"fit": by.how} if by.how else {})
        | ({"around": hashlib.sha256(near.tobytes()).hexdigest()[:16], "within": within} if near is not None else {}),
        header=source if job_suffix == ".mrcs" and source.suffix.lower() != ".star" else None,
    )
    rows = stream.run(job)
    for other, beside in others.items():
        stream.move(beside, rows, out / f"aligned_{pathlib.Path(other).stem}{images.suffix_of(other)}", job.size)
    space = stack.images.shape[1:-1]
    facts = {"space": space, "source": str(source.absolute()), "family": str(params.model.transform)}
    table.write_npz(out / "poses.npz", rows, words, facts)
    table.write_csv(out / "poses.csv", rows, params.model.transform, space, words)
    table.write_header(out / "columns.txt", params.model.transform)
    aligned = images.opened(out / f"aligned{job.suffix}", stack.images.shape[-1])
    finite, latent = np.asarray(rows["finite"]), np.asarray(rows["latent"])
    groups = averages(stack.images, aligned, finite, latent, words.get("label"))
    np.savez(out / "averages.npz", raw=groups.raw, aligned=groups.aligned, count=groups.count, group=groups.group)
    page.write(out, stack.images, aligned, rows, groups, params, words.get("label"))
    return out / "index.html"


def exported(folder: pathlib.Path, kind: str, path: str | None) -> pathlib.Path:
    """Writes the poses in a folder for another tool; returns where.

    Raises:
      Mistake: if the folder holds no poses, or the tool has no place for them.
    """
    if not (folder / "poses.npz").exists():
        raise Mistake(f"{folder}: expected a folder that `avae align` wrote to its end, but there is no poses.npz")
    if kind in ("csv", "npz"):
        own = folder / f"poses.{kind}"
        if path is None:
            return own
        expanded(path).write_bytes(own.read_bytes())
        return expanded(path)
    target = expanded(path) if path else folder / ("poses.star" if kind == "star" else "itk")
    if kind == "itk":
        export.itk(folder, target)
    else:
        export.star(folder, target)
    return target


def _all(name: str, data: Data, fit: sources.Fit) -> tuple[Stack, dict[str, list[str]]]:
    """All examples of a source in its order, those for training first, and the `file` and `label` of each, if any."""
    train, test = sources.stored(name, data.transform.dim, data.mean, data.std, fit)
    names, indices = index(train, test)
    if train is test:
        stack, which = train, indices[0]
    else:
        n, example = len(train.images), train.images.shape[1:]

        def both(rows: np.ndarray) -> np.ndarray:
            return np.concatenate([train.images[rows[rows < n]], test.images[rows[rows >= n] - n]])

        joined = Lazy((n + len(test.images), *example), train.images.dtype, both)
        stack, which = train._replace(images=joined), np.concatenate(indices)
    words = {}
    if train.names is not None:
        files = train.names if train is test else np.concatenate([train.names, test.names])
        words["file"] = files.tolist()
    if names and not (train.labels is None and test.labels is None):
        words["label"] = [names[k] for k in which]
    return stack, words


def _fingerprint(params: Params) -> str:
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params.weights):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]
