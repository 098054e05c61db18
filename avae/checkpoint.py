"""Runs on disk: the config, and the checkpoints beside it. All of Orbax is in this file.

workdir/config.json             what the run is; a workdir belongs to one config
workdir/checkpoints/<step>/     Orbax checkpoints of the train state, the newest few
"""

import gc
import json
import logging
import pathlib
import sys
from typing import Any, Self

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
from orbax.checkpoint import v1 as ocp

from avae.config import Experiment, complete, experiment, flatten, plain
from avae.model import Params
from avae.training import TrainState, init_state

# May change between two starts of the same run: they decide nothing about its weights.
FREE = ("evaluation.", "search.", "train.log_every", "train.checkpoint_every")


class Checkpoints:
    """The checkpoints of one run, written in the background, made visible only when whole."""

    def __init__(self, workdir: pathlib.Path, keep: int = 2) -> None:
        every_step: Any = ocp.training.save_decision_policies.FixedIntervalPolicy(1)  # Orbax's own types disagree
        newest: Any = ocp.training.preservation_policies.LatestN(keep)
        self._checkpointer = ocp.training.Checkpointer(
            str((workdir / "checkpoints").resolve()),
            save_decision_policy=every_step,
            preservation_policy=newest,
            cleanup_tmp_directories=True,
        )
        self._saving: Any = None

    def save(self, state: TrainState) -> None:
        """Starts to save a copy of `state`, whose buffers are given to the next step; waits for the save before."""
        self.wait()
        self._saving = self._checkpointer.save_async(
            int(state.step), jax.tree.map(jnp.copy, _arrays(state)), overwrite=True
        )

    def wait(self) -> None:
        """Returns when nothing is being saved any more.

        Raises:
          OSError: if the checkpoint could not be written (a full disk); the one before is untouched.
        """
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def restore(self, like: TrainState) -> TrainState | None:
        """The newest state that can be read, or None where there is none at all.

        A damaged checkpoint is named on standard error and the one before it is taken.

        Raises:
          ValueError: if there are checkpoints but none can be read.
        """
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), _arrays(like)
        )
        steps = sorted((found.step for found in self._checkpointer.checkpoints), reverse=True)
        for step in steps:
            try:
                arrays = self._checkpointer.load(step, target)
            except Exception as error:  # whatever the damage raises: Orbax has no common class for it
                _collect_failed_reads()
                reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
                print(f"checkpoint {step} cannot be read ({reason}); trying the one before", file=sys.stderr)
                continue
            params = like.params.replace(weights=arrays["weights"])
            return like.replace(step=arrays["step"], params=params, opt_state=arrays["opt_state"])
        if steps:
            raise ValueError(
                f"none of the checkpoints {steps} in {self._checkpointer.directory} can be read; "
                "choose another --workdir, or remove this one to begin again"
            )
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        try:
            self.wait()
        finally:
            self._checkpointer.close()


def load(workdir: str | pathlib.Path) -> Params:
    """A trained run: its model and the newest weights.

    Args:
      workdir: the folder given to (or chosen by) train.py.

    Returns:
      `Params`, ready for `avae.align`.

    Raises:
      ValueError: if there is no run in `workdir`, or nothing in it that can be read.
    """
    workdir = pathlib.Path(workdir)
    like = init_state(load_experiment(workdir))
    with Checkpoints(workdir) as checkpoints:
        state = checkpoints.restore(like)
    if state is None:
        raise ValueError(f"{workdir}: the run has not saved a checkpoint yet")
    return state.params


def load_experiment(workdir: str | pathlib.Path) -> Experiment:
    """The experiment whose config is saved in `workdir`.

    Raises:
      ValueError: if there is none, or it cannot be read.
    """
    return experiment(_read_config(pathlib.Path(workdir)))


def claim(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Makes `workdir` the folder of this config, or checks that it is.

    Raises:
      ValueError: if the folder holds a run of another config; the message names the settings that differ.
    """
    path = workdir / "config.json"
    if path.exists():
        there, here = flatten(_read_config(workdir)), flatten(complete(plain(config)))
        changed = [
            f"{name}: {there.get(name)!r} there, {here.get(name)!r} here"
            for name in sorted(there.keys() | here.keys())
            if there.get(name) != here.get(name) and not name.startswith(FREE)
        ]
        if changed:
            raise ValueError(
                f"{workdir} holds a run of another config ({'; '.join(changed)}); "
                "choose another --workdir, or remove this one"
            )
    workdir.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(complete(plain(config)), indent=2) + "\n")
    draft.replace(path)  # whole or not at all


def _read_config(workdir: pathlib.Path) -> dict[str, Any]:
    path = workdir / "config.json"
    if not path.exists():
        raise ValueError(f"{workdir}: no run here (no config.json); train one with train.py --workdir={workdir}")
    try:
        return complete(plain(json.loads(path.read_text())))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not a readable config ({error})") from None


def _collect_failed_reads() -> None:
    """Collects the reads that Orbax left behind in a failed load, without their pages of complaints."""
    asyncio_log, hook = logging.getLogger("asyncio"), sys.unraisablehook
    asyncio_log.disabled, sys.unraisablehook = True, lambda _: None
    try:
        gc.collect()
    finally:
        asyncio_log.disabled, sys.unraisablehook = False, hook


def _arrays(state: TrainState) -> dict[str, Any]:
    """The part of the state that is saved: its static model is in config.json."""
    return {"step": state.step, "weights": state.params.weights, "opt_state": state.opt_state}
