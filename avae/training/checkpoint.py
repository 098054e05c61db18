"""The checkpoints of a run: workdir/checkpoints/<step>/, the newest few and the best. All of Orbax is in this file."""

import contextlib
import dataclasses
import gc
import logging
import operator
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, Self

import jax
import jax.numpy as jnp

from avae.experiment import Experiment
from avae.model import Params
from avae.runtime import devices, root_logger
from avae.runtime.files import expanded
from avae.runtime.mistake import Mistake
from avae.training import packed
from avae.training.run_folder import load_experiment
from avae.training.step import TrainState, init_state, trained

with root_logger.untouched():
    from orbax.checkpoint import v1 as ocp


class NotSaved(OSError):
    """A checkpoint could not be written. The message says why, and which is the last good one."""


class Checkpoints:
    """The checkpoints of one run, written in the background, made visible only when whole.

    Every process calls every method, in the same order, from one thread, on storage that all of them see.

    Args:
      workdir: the folder of the run.
      keep_last: how many of the newest are kept; None to only read: then nothing is created or cleaned up.
      keep_best: how many are kept besides, those with the lowest loss.
    """

    def __init__(self, workdir: pathlib.Path, keep_last: int | None = None, keep_best: int = 0) -> None:
        self._directory = (workdir / "checkpoints").resolve()
        self._saving: tuple[int, Any] | None = None
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(root_logger.untouched())
        self._checkpointer: Any = None  # of a reader where there is nothing
        if keep_last is not None:
            self._checkpointer = _writer(self._directory, keep_last, keep_best)
        elif devices.all_agree(self._directory.is_dir()):
            self._checkpointer = _listed(lambda: ocp.training.Checkpointer(str(self._directory)))

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
          NotSaved: if the checkpoint could not be written (a full disk); the ones before are untouched.
        """
        saving, self._saving = self._saving, None
        if saving is not None:
            with self._writing(saving[0]):
                saving[1].result()

    @contextlib.contextmanager
    def _writing(self, step: int) -> Iterator[None]:
        """Turns any failure to write into an error that names the last good checkpoint."""
        try:
            yield
        except Exception as error:
            good = [found.step for found in self._found() if found.step != step]
            left = f"the last good one, of step {max(good)}, is kept" if good else "there is none before it"
            raise NotSaved(f"checkpoint {step} could not be written ({_reason(error)}); {left}") from error

    def restore(self, like: TrainState, best: bool = False) -> TrainState | None:
        """The newest state that can be read, or the best, or None where there is none at all.

        A checkpoint unreadable on one process is named on its standard error, and skipped on all for the next newest,
        or next best.

        Raises:
          Mistake: if there are checkpoints but none can be read.
        """
        skipped: list[int] = []

        def key(found: Any) -> float:  # checkpoints of older versions have no loss
            return (found.metrics or {}).get("loss", float("inf")) if best else -found.step

        while steps := [step for step in self._steps(key) if step not in skipped]:
            if (state := self._state(steps[0], like)) is not None:
                return state
            skipped.append(steps[0])
            _listed(self._checkpointer.reload)  # a job that is training may have replaced it by a newer one
        if skipped:
            raise Mistake(
                f"none of the checkpoints {skipped} in {self._directory} can be read; "
                "choose another --workdir, or remove this one to begin again"
            )
        return None

    def restore_all(self, like: TrainState) -> Iterator[TrainState]:
        """Every state that is kept and can be read, the oldest first."""
        for step in self._steps(operator.attrgetter("step")):
            if (state := self._state(step, like)) is not None:
                yield state

    def _found(self) -> list[Any]:
        return list(self._checkpointer.checkpoints) if self._checkpointer else []

    def _steps(self, key: Any) -> list[int]:
        """The steps of all checkpoints, in the order of `key`, as the first process sees them."""
        return devices.of_first_process([found.step for found in sorted(self._found(), key=key)])

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
            why = reason or "by another process"
            return print(f"checkpoint {step} cannot be read ({why}); it is passed over", file=sys.stderr)
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
            with self._stack, contextlib.nullcontext() if saved else contextlib.suppress(Exception):
                if self._checkpointer is not None:
                    self._checkpointer.close()


def load(workdir: str | os.PathLike[str], *, best: bool = False, as_read: bool = False) -> Params:
    """A trained run: its model and the newest weights; their running average, if the run kept one.

    It only reads: a run can be loaded while it trains, and from where nothing can be written.

    Args:
      workdir: the folder of a run (`~` is the home folder), or a name in `avae.SHIPPED`: weights that the package has.
      best: take the checkpoint with the lowest training loss instead.
      as_read: for images that were read by a reader of data, not for raw ones.

    Returns:
      `Params`, ready for `avae.align`, on one device or on many; of a run on files, for raw values as they hold them.

    Raises:
      Mistake: if there is no run in `workdir`, or nothing in it that can be read.
    """
    experiment, workdir = load_experiment(workdir), packed.place(workdir)
    model = dataclasses.replace(experiment.model, values=None if as_read else experiment.data.values)
    if (workdir / packed.FILE).exists():
        return packed.read(workdir, model)
    with Checkpoints(workdir) as checkpoints:
        state = checkpoints.restore(devices.replicate(init_state(experiment)), best)
    if state is None:
        raise Mistake(f"{workdir}: the run has not saved a checkpoint yet")
    return _params(state, experiment).replace(model=model)


def load_all(workdir: str | os.PathLike[str]) -> Iterator[tuple[int, Params]]:
    """Every checkpoint that a run kept, the oldest first: its step, and what `load` gives of it; Mistake if no run."""
    workdir = expanded(workdir)
    experiment = load_experiment(workdir)
    with Checkpoints(workdir) as checkpoints:
        for state in checkpoints.restore_all(devices.replicate(init_state(experiment))):
            yield int(state.step), _params(state, experiment)


def _listed(find: Callable[[], Any]) -> Any:
    """What `find` gives, tried again where a job that trains removes a checkpoint while it is listed."""
    for _ in range(9):
        with contextlib.suppress(FileNotFoundError):
            return find()
    return find()


def _writer(directory: pathlib.Path, keep_last: int, keep_best: int) -> Any:
    policies: Any = ocp.training.preservation_policies  # Orbax's own types disagree
    loss = operator.itemgetter("loss")
    best = policies.BestN(get_metric_fn=loss, reverse=True, n=keep_best, keep_checkpoints_without_metrics=False)
    every_step: Any = ocp.training.save_decision_policies.FixedIntervalPolicy(1)
    return ocp.training.Checkpointer(
        str(directory),
        save_decision_policy=every_step,
        preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep_last), best]),
        cleanup_tmp_directories=True,
    )


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


def _params(state: TrainState, experiment: Experiment) -> Params:
    """What the state gives, as uncommitted copies, which JAX moves to the device of the images."""
    return jax.tree.map(jnp.asarray, jax.device_get(trained(state, experiment)))


def _reason(error: Exception) -> str:
    """The first line of what an error says, its middle left out where it is long."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if len(line) <= 240 else f"{line[:120]} ... {line[-120:]}"
