"""One process of a run on many hosts, for test_hosts.py: argv is the folder, the port, how many, and which this is.

AVAE_SLOW is the least time of a step in seconds, so that the run can be stopped on the way. With AVAE_READ the process
trains nothing, and prints which step it would go on from, and the size of its weights.
"""

import functools
import os
import pathlib
import sys
import time

import jax
import numpy as np

from avae.config import default, experiment
from avae.runtime import devices
from avae.training import checkpoint, loop, run_folder, step as training
from avae.training.loop import Interrupted

SMALL = {
    "data.n_train": 64,
    "data.n_test": 8,
    "data.pose": "upright",
    "transform.name": "quarter_turns",
    "model.hidden": (8,),
    "model.latent": 2,
    "train.batch_size": 16,
    "train.epochs": 5,  # 20 steps
    "train.warmup_steps": 2,
    "train.checkpoint_every": 4,
    "train.log_every": 1,
}


def read(described, workdir):
    with checkpoint.Checkpoints(workdir) as checkpoints:
        state = checkpoints.restore(devices.replicate(training.init_state(described)))
    size = sum(float(abs(leaf).sum()) for leaf in jax.tree.leaves(jax.device_get(state.params.weights)))
    return f"goes on after step {int(state.step)}, weights {size}"


def main(workdir, port, processes, process):
    if processes > 1:
        patience = {"heartbeat_timeout_seconds": 10}  # until a process that was killed is missed
        jax.distributed.initialize = functools.partial(jax.distributed.initialize, **patience)
        devices.join(f"127.0.0.1:{port}", processes, process)
    config, take = default(), devices.take
    config.update_from_flattened_dict(SMALL)
    if os.environ.get("AVAE_READ"):
        return print(read(experiment(config), workdir))
    pause = float(os.environ.get("AVAE_SLOW", "0"))
    devices.take = lambda source, index: (time.sleep(pause), take(source, index))[1]
    run_folder.claim(workdir, config)
    try:
        params = loop.fit(experiment(config), workdir)
    except Interrupted as stop:
        print(stop)
        sys.exit(128 + stop.signum)
    weights = jax.device_get(params.weights)
    if devices.first_process():
        np.savez(workdir / "weights.npz", *jax.tree.leaves(weights))
    devices.wait_for_all("done")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:]))
