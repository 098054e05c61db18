"""Where arrays live: one mesh over all devices of all processes, batches split along it, weights on every device.

No other module depends on the number of devices. The order of the data and all random draws are those of one device:
a batch has the same images, and each draw belongs to an example, on any number of devices.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from avae.runtime.mistake import Mistake

AXIS = "data"


def join(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Joins this process to the others of a run on many hosts; to be called before anything else of JAX's.

    Args:
      coordinator: host:port of process 0; None for JAX_COORDINATOR_ADDRESS, or what a Cloud TPU, SLURM or Open MPI
        says.
      num_processes: how many there are; None for AVAE_NUM_PROCESSES, or likewise.
      process_id: which of them this one is, from 0; None for AVAE_PROCESS_ID, or likewise.

    Raises:
      Mistake: if the others cannot be found from what was given and the environment.
    """
    num_processes = _whole("AVAE_NUM_PROCESSES") if num_processes is None else num_processes
    process_id = _whole("AVAE_PROCESS_ID") if process_id is None else process_id
    if num_processes is not None and process_id is not None and not 0 <= process_id < num_processes:
        raise Mistake(f"process_id: expected 0 to {num_processes - 1} of {num_processes} processes, got {process_id}")
    if coordinator is not None and not coordinator.rpartition(":")[2].isdigit():
        raise Mistake(f"coordinator: expected host:port of process 0, got {coordinator!r}")
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except (ValueError, RuntimeError) as error:
        given = f"coordinator {coordinator}, num_processes {num_processes}, process_id {process_id}"
        raise Mistake(
            f"distributed: the processes could not be joined ({str(error).splitlines()[0]}); expected a Cloud TPU, "
            f"SLURM or Open MPI to say how, or coordinator, num_processes and process_id; got {given}"
        ) from None


def first_process() -> bool:
    """Whether this is the process that writes logs, reports and everything else that is written once."""
    return jax.process_index() == 0


@functools.cache
def mesh() -> Mesh:
    """All devices in a row; Auto axes, so that the compiler places what is computed."""
    return jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))


def count() -> int:
    """How many devices there are, on all hosts together."""
    return mesh().size


def check_batch(batch_size: int) -> None:
    """Raises Mistake if a batch cannot be split evenly over the devices."""
    n = count()
    if batch_size % n:
        near = sorted({size for size in (batch_size // n * n, batch_size // n * n + n) if size})
        raise Mistake(
            f"train.batch_size: expected a multiple of the {n} devices, got {batch_size}; "
            f"{' or '.join(map(str, near))} would do"
        )


def replicate(tree: Any) -> Any:
    """A pytree of arrays, the same on every process, as arrays that every device holds whole."""
    return jax.device_put(tree, NamedSharding(mesh(), PartitionSpec()))


def take(source: np.ndarray, index: np.ndarray) -> Array:
    """The rows `source[index]` [B, ...], split over the devices; a process reads the rows of its own devices alone.

    Args:
      source: array [N, ...] on the host, or whatever has a shape and can be indexed like one.
      index: row numbers [B], the same on every process; B is a multiple of the devices.
    """
    split = NamedSharding(mesh(), PartitionSpec(AXIS))

    def rows(where: Any) -> np.ndarray:
        return np.asarray(source[index[where[0]]])

    return jax.make_array_from_callback((len(index), *source.shape[1:]), split, rows)


def auto(x: Array) -> Array:
    """A concrete array, where it lies, on a mesh of Auto axes, unless the caller has set a mesh.

    Explicit axes ask each operation for its sharding, and some of them for a mesh that is set.
    """
    sharding: Any = None if isinstance(x, Tracer) else x.sharding
    if not is_explicit(sharding) or not jax.sharding.get_abstract_mesh().empty:
        return x
    names = sharding.mesh.axis_names
    mesh = Mesh(sharding.mesh.devices, names, axis_types=(AxisType.Auto,) * len(names))
    return jax.device_put(x, NamedSharding(mesh, sharding.spec))


def is_explicit(sharding: Any) -> bool:
    """Whether a sharding has explicit axes, which are a part of an array's type."""
    return isinstance(sharding, NamedSharding) and AxisType.Explicit in sharding.mesh.axis_types


def hiding_axes(function: Callable[[Any], Any], sharding: Any) -> Callable[[Any], Any]:
    """`function` of arrays with explicit axes, which works on Auto ones and returns arrays split as `sharding` is."""
    split = PartitionSpec(sharding.spec[0])
    hidden = jax.sharding.auto_axes(function, out_sharding=split)

    def call(arrays: Any) -> Any:
        with jax.sharding.use_abstract_mesh(sharding.mesh):
            return hidden(arrays)

    return call


def fetch(tree: Any) -> Any:
    """A pytree of arrays, split or not, as whole arrays on the host of every process."""
    return jax.device_get(tree) if jax.process_count() == 1 else multihost_utils.process_allgather(tree, tiled=True)


def local(x: ArrayLike) -> np.ndarray:
    """What this process can see of an array [B, ...]: all of it, or the rows on its own devices."""
    if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    return np.concatenate([np.asarray(shard.data) for shard in x.addressable_shards])


def wait_for_all(name: str) -> None:
    """Returns when every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def all_agree(ok: bool) -> bool:
    """Whether `ok` holds in every process."""
    return ok if jax.process_count() == 1 else bool(np.all(multihost_utils.process_allgather(np.asarray(ok))))


def in_first_process(action: Callable[[], Any]) -> None:
    """Calls `action` in the first process alone. All processes go on when it is done, or none of them does.

    Raises:
      Mistake: in the others, if it raised in the first, which raises what it raised.
    """
    error = None
    if first_process():
        try:
            action()
        except Exception as caught:
            error = caught
    if not all_agree(error is None):
        raise error or Mistake("the first process could not go on; its message says why")


def of_first_process(numbers: list[int]) -> list[int]:
    """The numbers that the first process gives, in every process."""
    if jax.process_count() == 1:
        return numbers
    length = int(multihost_utils.broadcast_one_to_all(np.asarray(len(numbers))))
    return multihost_utils.broadcast_one_to_all(np.resize(np.asarray(numbers, int), length)).tolist()


def _whole(variable: str) -> int | None:
    """A whole number from the environment, if it is there."""
    value = os.environ.get(variable)
    if value is not None and not value.isdigit():
        raise Mistake(f"{variable}: expected a whole number, got {value!r}")
    return None if value is None else int(value)
