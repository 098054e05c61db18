"""Runs on disk: the config, and the checkpoints beside it. All of Orbax is in this file.

workdir/config.json             what the run is; a workdir belongs to one config
workdir/checkpoints/<step>/     Orbax checkpoints of the train state, the newest few and the best
"""

import contextlib
import gc
import json
import logging
import pathlib
import sys
from collections.abc import Iterator
from typing import Any, Self

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
from orbax.checkpoint import v1 as ocp

from avae.config import Experiment, complete, experiment, flatten, plain
from avae.model import Params
from avae.runtime import devices
from avae.runtime.mistake import Mistake
from avae.training.step import TrainState, init_state, trained

# May change between two starts of the same run: they decide nothing about its weights.
FREE = ("evaluation.", "search.", "train.log_every", "train.checkpoint_every", "train.keep_last", "train.keep_best")


class Checkpoints:
    """The checkpoints of one run, written in the background, made visible only when whole.

    Every process calls every method, in the same order; each writes what it holds, to storage that all of them see.
    """

    def __init__(self, workdir: pathlib.Path, keep_last: int = 2, keep_best: int = 1) -> None:
        policies: Any = ocp.training.preservation_policies  # Orbax's own types disagree
        every_step: Any = ocp.training.save_decision_policies.FixedIntervalPolicy(1)
        best = policies.BestN(get_metric_fn=_loss, reverse=True, n=keep_best, keep_checkpoints_without_metrics=False)
        self._checkpointer = ocp.training.Checkpointer(
            str((workdir / "checkpoints").resolve()),
            save_decision_policy=every_step,
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep_last), best]),
            cleanup_tmp_directories=True,
        )
        self._saving: tuple[int, Any] | None = None

    def save(self, state: TrainState, loss: float) -> None:
        """Starts to save a copy of `state`, whose buffers are given to the next step; waits for the save before.

        `loss`, the mean training loss on the way to this state, says which checkpoints are best.
        """
        self.wait()
        step, copy = int(state.step), jax.tree.map(jnp.copy, _arrays(state))
        with self._writing(step):
            self._saving = step, self._checkpointer.save_async(step, copy, metrics={"loss": loss}, overwrite=True)

    def wait(self) -> None:
        """Returns when nothing is being saved any more.

        Raises:
          OSError: if the checkpoint could not be written (a full disk); the ones before are untouched.
        """
        saving, self._saving = self._saving, None
        if saving is not None:
            with self._writing(saving[0]):
                saving[1].result()

    @contextlib.contextmanager
    def _writing(self, step: int) -> Iterator[None]:
        """A failure to write, of whatever class, as an OSError that says what is left."""
        try:
            yield
        except Exception as error:
            good = [found.step for found in self._checkpointer.checkpoints if found.step != step]
            left = f"the last good one, of step {max(good)}, is kept" if good else "there is none before it"
            raise OSError(f"checkpoint {step} could not be written ({_reason(error)}); {left}") from error

    def restore(self, like: TrainState, best: bool = False) -> TrainState | None:
        """The newest state that can be read, or the best, or None where there is none at all.

        A checkpoint that a process cannot read is named on its standard error, and all take the next newest, or next
        best.

        Raises:
          Mistake: if there are checkpoints but none can be read.
        """
        found = sorted(self._checkpointer.checkpoints, key=_loss_of if best else _newest)
        steps = devices.of_first_process([checkpoint.step for checkpoint in found])  # not all may see the newest yet
        for step in steps:
            if (state := self._state(step, like)) is not None:
                return state
        if steps:
            raise Mistake(
                f"none of the checkpoints {steps} in {self._checkpointer.directory} can be read; "
                "choose another --workdir, or remove this one to begin again"
            )
        return None

    def restore_all(self, like: TrainState) -> Iterator[TrainState]:
        """Every state that is kept and can be read, the oldest first."""
        found = sorted(checkpoint.step for checkpoint in self._checkpointer.checkpoints)
        for step in devices.of_first_process(found):
            if (state := self._state(step, like)) is not None:
                yield state

    def _state(self, step: int, like: TrainState) -> TrainState | None:
        """The state of `step`, or None where a process cannot read it, which is told on standard error."""
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), _arrays(like)
        )
        try:
            arrays, reason = self._read(step, target), ""
        except Exception as error:  # whatever the damage raises: Orbax has no common class for it
            _collect_failed_reads()
            arrays, reason = None, _reason(error)
        if not devices.all_agree(arrays is not None) or arrays is None:
            note = f"checkpoint {step} cannot be read ({reason or 'by another process'}); it is passed over"
            print(note, file=sys.stderr)
            return None
        params = like.params.replace(weights=arrays["weights"])
        return like.replace(params=params, **{name: part for name, part in arrays.items() if name != "weights"})

    def _read(self, step: int, target: Any) -> Any:
        """What `target` describes, read by each process for itself: one that fails leaves no other waiting."""
        context, me = ocp.Context(), jax.process_index()
        if jax.process_count() > 1:
            options = context.multiprocessing_options
            options.primary_host, options.active_processes, options.barrier_sync_key_prefix = me, {me}, f"process{me}"
        with context:
            return self._checkpointer.load(step, target)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        saved = error is None
        try:
            if saved:
                self.wait()
        except OSError:
            saved = False
            raise
        finally:  # Orbax waits for what is being saved; where something went wrong already, that is what is told
            with contextlib.nullcontext() if saved else contextlib.suppress(Exception):
                self._checkpointer.close()


def load(workdir: str | pathlib.Path, *, best: bool = False) -> Params:
    """A trained run: its model and the newest weights; their running average, if the run kept one.

    Args:
      workdir: the folder given to (or chosen by) train.py.
      best: take the checkpoint with the lowest training loss instead.

    Returns:
      `Params`, ready for `avae.align`, on one device or on many.

    Raises:
      Mistake: if there is no run in `workdir`, or nothing in it that can be read.
    """
    workdir = pathlib.Path(workdir)
    experiment = load_experiment(workdir)
    with Checkpoints(workdir) as checkpoints:
        state = checkpoints.restore(devices.replicate(init_state(experiment)), best)
    if state is None:
        raise Mistake(f"{workdir}: the run has not saved a checkpoint yet")
    return _at_home(trained(state, experiment))


def load_all(workdir: str | pathlib.Path) -> Iterator[tuple[int, Params]]:
    """Every checkpoint that a run kept (`train.keep_last`), the oldest first: its step, and what `load` gives of it.

    Raises:
      Mistake: if there is no run in `workdir`.
    """
    workdir = pathlib.Path(workdir)
    experiment = load_experiment(workdir)
    with Checkpoints(workdir) as checkpoints:
        for state in checkpoints.restore_all(devices.replicate(init_state(experiment))):
            yield int(state.step), _at_home(trained(state, experiment))


def load_experiment(workdir: str | pathlib.Path) -> Experiment:
    """The experiment whose config is saved in `workdir`.

    Raises:
      Mistake: if there is none, or it cannot be read.
    """
    return experiment(_read_config(pathlib.Path(workdir)))


def claim(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Makes `workdir` the folder of this config, or checks that it is.

    Raises:
      Mistake: if the folder holds a run of another config; the message names the settings that differ.
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
            raise Mistake(
                f"{workdir} holds a run of another config ({'; '.join(changed)}); "
                "choose another --workdir, or remove this one"
            )
    if devices.first_process():
        workdir.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".tmp")
        draft.write_text(json.dumps(complete(plain(config)), indent=2) + "\n")
        draft.replace(path)  # whole or not at all
    devices.wait_for_all("claim")
    if not path.exists():
        raise Mistake(f"{workdir}: expected a folder that all processes see; this one finds nothing in it")


def _read_config(workdir: pathlib.Path) -> dict[str, Any]:
    path = workdir / "config.json"
    if not path.exists():
        raise Mistake(f"{workdir}: no run here (no config.json); train one with train.py --workdir={workdir}")
    try:
        return complete(plain(json.loads(path.read_text())))
    except json.JSONDecodeError as error:
        raise Mistake(f"{path}: not a readable config ({error})") from None


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
    arrays = {"step": state.step, "weights": state.params.weights, "opt_state": state.opt_state}
    optional = {"average": state.average, "poses": state.poses}
    return arrays | {name: part for name, part in optional.items() if part is not None}


def _at_home(params: Params) -> Params:
    """Parameters that are at home on any device: they go where the images are."""
    return jax.tree.map(jnp.asarray, jax.device_get(params))


def _loss(metrics: Any) -> float:
    return metrics["loss"]


def _loss_of(found: Any) -> float:
    """What orders checkpoints from the best; those of older versions have no loss."""
    return found.metrics["loss"] if found.metrics else float("inf")


def _newest(found: Any) -> int:
    return -found.step


def _reason(error: Exception) -> str:
    """The first line of what an error says, its middle left out where it is long."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if len(line) <= 240 else f"{line[:120]} ... {line[-120:]}"
