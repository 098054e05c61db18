"""The folder of a run: who may write into it, what it is a run of, and on which data.

workdir/config.json   the settings of the run. A folder belongs to one config.
workdir/data.json     a fingerprint of the training data, and their background.
workdir/mask.npy      a copy of the mask, where the config names a file.
workdir/lock          held by the job that trains in the folder, which it names.
"""

import contextlib
import datetime
import errno
import json
import os
import pathlib
import socket
from collections.abc import Container, Iterator, Mapping
from typing import Any, TextIO

from ml_collections import ConfigDict

from avae.config import complete, experiment
from avae.data import known, sources
from avae.data.described import AUTO, Data
from avae.experiment import Experiment
from avae.runtime import devices
from avae.runtime.files import expanded, write_whole
from avae.runtime.mistake import Mistake
from avae.runtime.nested import flatten, plain
from avae.training import packed
from avae.training.versions import VERSION, migrate, removed
from avae.transforms.background import levels

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# May change between two starts of the same run: they decide nothing about its weights.
FREE = ("evaluation.", "search.", "data.masks", "train.log_every", "train.checkpoint_every", "train.keep_")
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)  # file systems without them


def load_experiment(workdir: str | os.PathLike[str], data: str | os.PathLike[str] | None = None) -> Experiment:
    """The experiment whose config is saved in `workdir`.

    Args:
      workdir: the folder of the run, or the name of shipped weights.
      data: where its data are now, if they were moved: takes the place of `data.name`.

    Raises:
      Mistake: if there is none, or it cannot be read.
    """
    workdir = packed.place(workdir)
    config = complete(migrate(_saved(workdir)))
    if data is not None:
        config |= {"data": config["data"] | {"name": os.fspath(data)}}
    if (mask := workdir / "mask.npy").exists():
        config |= {"likelihood": config["likelihood"] | {"mask": str(mask)}}
    return with_background(workdir, experiment(config))


def with_background(workdir: pathlib.Path, experiment: Experiment) -> Experiment:
    """The experiment with the background of the run in `workdir`, where it is known and the experiment's is "auto"."""
    if (path := workdir / "config.json").exists():
        kept = migrate(plain(_json(path))).get("data", {}).get("background", AUTO)
        if kept == AUTO and (path := workdir / "data.json").exists():
            kept = plain(_json(path)).get("background", AUTO)
        if kept != AUTO:
            return experiment.with_background(levels(kept))
    return experiment


def check(workdir: pathlib.Path, config: Mapping[str, Any] | ConfigDict) -> None:
    """Checks that `workdir` is the folder of this config, or of none yet; writes nothing.

    Raises:
      Mistake: if the folder holds a run of another config; the message names the settings that differ.
    """
    if not (workdir / "config.json").exists():
        return
    saved = _saved(workdir)
    there, here = flatten(_absolute(complete(migrate(saved)))) | removed(saved), flatten(_described(config))
    free = FREE + (("data.background",) if here["data.background"] == AUTO else ())  # that of the run is taken
    free += ("data.name",) if (workdir / "data.json").exists() else ()  # known by more than its name
    free += ("likelihood.mask",) if _mask_file(_described(config)) and (workdir / "mask.npy").exists() else ()
    free += ("train.poses",) if there["train.poses"] and here["train.poses"] else ()  # the state has them
    changed = [
        f"{name}: {there.get(name)!r} there, {here.get(name)!r} here"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name) and not name.startswith(free)
    ]
    if changed:
        raise Mistake(
            f"{workdir} holds a run of another config ({'; '.join(changed)}); "
            "choose another --workdir, or remove this one"
        )
    mask, kept = _mask_file(_described(config)), workdir / "mask.npy"
    if mask and kept.exists() and mask.read_bytes() != kept.read_bytes():
        raise Mistake(f"likelihood.mask: {mask} is not what the run was trained with, of which {kept} is a copy")


def claim(workdir: pathlib.Path, config: Mapping[str, Any] | ConfigDict) -> None:
    """Makes `workdir` the folder of this config; the first process writes.

    Raises:
      Mistake: as `check`, or if the processes do not see the same folder.
    """
    check(workdir, config)
    described = _described(config)

    def write() -> None:
        workdir.mkdir(parents=True, exist_ok=True)
        if (mask := _mask_file(described)) and not (kept := workdir / "mask.npy").exists():
            write_whole(kept, mask.read_bytes())
        write_whole(workdir / "config.json", json.dumps({"version": VERSION} | described, indent=2) + "\n")

    devices.in_first_process(write)
    if not (workdir / "config.json").exists():
        raise Mistake(f"{workdir}: expected a folder that all processes see; this one finds nothing in it")


def check_data(workdir: pathlib.Path, data: Data) -> None:
    """Checks that these are the data on which the run was trained, where their fingerprint is known.

    Raises:
      Mistake: if they are not.
    """
    _compare(workdir, data, sources.fingerprint(data.name, dim=data.transform.dim))


def keep_data(workdir: pathlib.Path, data: Data) -> None:
    """Notes on which data the run in `workdir` is trained, or checks that they are still the same.

    Raises:
      Mistake: as `check_data`.
    """
    found, path = sources.fingerprint(data.name, dim=data.transform.dim), workdir / "data.json"
    content = {"name": _absolute_name(data.name), "fingerprint": found, "background": data.background}
    # The first process decides: whether the file is there may look different to each of them at this moment.
    devices.in_first_process(lambda: path.exists() or write_whole(path, json.dumps(content, indent=2) + "\n"))
    _compare(workdir, data, found)


def _compare(workdir: pathlib.Path, data: Data, here: str) -> None:
    path = workdir / "data.json"
    there = dict(_json(path)).get("fingerprint") if path.exists() else here
    if there != here:
        raise Mistake(
            f"data.name: {data.name} is not what the run in {workdir} was trained on (fingerprint {there} there, "
            f"{here} here); bring the data back, say where they are now (train.py --config.data.name=PATH, "
            f"eval.py --data=PATH), or choose another --workdir; to take these data all the same, remove {path}"
        )


@contextlib.contextmanager
def held(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps other jobs from training in `workdir` while the block runs; the system lets go of it if this job dies.

    The first process of a run holds it, for all of them. A folder in which nothing came to be is removed at the end.

    Raises:
      Mistake: if another job holds it, which is named.
    """
    with contextlib.ExitStack() as stack:
        devices.in_first_process(lambda: stack.enter_context(_locked(workdir)))
        yield


@contextlib.contextmanager
def _locked(workdir: pathlib.Path) -> Iterator[None]:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise Mistake(f"--workdir: expected a folder, but there is a file at {workdir}, or above it") from None
    path = workdir / "lock"
    with path.open("a+", encoding="utf-8") as file:
        if not _lock(file):
            file.seek(0)
            holder = file.read().strip() or "another job"
            raise Mistake(
                f"{workdir}: {holder} is at work in this folder; wait for it, stop it, or choose another --workdir"
            )
        file.truncate(0)
        now = datetime.datetime.now(datetime.UTC).isoformat(sep=" ", timespec="seconds")
        file.write(f"process {os.getpid()} on {socket.gethostname()}, started {now},\n")
        file.flush()
        try:
            yield
        finally:
            if not (workdir / "config.json").exists():  # nothing was claimed
                with contextlib.suppress(OSError):
                    path.unlink()
                    (workdir / "checkpoints").rmdir()
                    workdir.rmdir()


def _lock(file: TextIO) -> bool:
    """Whether this job now holds the file, or the file system knows no locks."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return os.fstat(file.fileno()).st_nlink > 0  # else it was removed by the job that held it


def _saved(workdir: pathlib.Path) -> dict[str, Any]:
    """config.json as it stands, of whatever version."""
    path = workdir / "config.json"
    if not path.exists():
        below = sorted(str(found.parent) for found in workdir.glob("*/config.json"))
        hint = f"; there are runs in {', '.join(below[:5])}" if below else ""
        what = "no run here (no config.json)" if workdir.is_dir() else "no run here (no such folder)"
        raise Mistake(f"{workdir}: {what}{hint}; train one with train.py --workdir={workdir}{packed.hint(workdir)}")
    return plain(_json(path))


def _json(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no UTF-8
        raise Mistake(f"{path}: not a readable config ({error}); restore it, or choose another --workdir") from None


def _described(config: Mapping[str, Any] | ConfigDict) -> dict[str, Any]:
    """All of a config, independent of the folder from which a command is called."""
    return _absolute(complete(config))


def _absolute(config: dict[str, Any]) -> dict[str, Any]:
    train, name = config["train"], _absolute_name(config["data"]["name"])
    start = _absolute_name(train["start"], ("", *packed.SHIPPED))
    train = train | {"start": start, "poses": _absolute_name(train["poses"], ("", known.OWN))}
    config = config | {"data": config["data"] | {"name": name}, "train": train}
    mask = _mask_file(config)
    return config | {"likelihood": config["likelihood"] | {"mask": str(mask)}} if mask else config


def _mask_file(config: Mapping[str, Any]) -> pathlib.Path | None:
    """The file that a complete config names as its mask, if it does."""
    name = config["likelihood"]["mask"]
    return None if name in (None, "disc") else pathlib.Path(os.path.abspath(expanded(name)))


def _absolute_name(name: str, no_paths: Container[str] = sources.EMBEDDED) -> str:
    return name if name in no_paths or name.startswith(sources.tfds.PREFIX) else os.path.abspath(expanded(name))
