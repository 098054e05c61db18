"""What a run came to encode: the orientations of its test images at the checkpoints that it kept.

python train.py --config=configs/rot_mnist.py --config.train.checkpoint_every=94 --config.train.keep_last=30
python eval.py --workdir=runs/rot_mnist --history
"""

import pathlib
from typing import NamedTuple

import numpy as np

from avae.align import align
from avae.data import dataset as data
from avae.evaluation import metrics
from avae.runtime.batches import over_batches
from avae.runtime.mistake import Mistake
from avae.training.checkpoint import load_all
from avae.training.run_folder import load_experiment


class History(NamedTuple):
    """Net orientations [N, d, d] of the same test images (`metrics.net_rotation`), by epoch; their classes [N]."""

    rotations: dict[float, np.ndarray]
    labels: np.ndarray
    class_names: tuple[str, ...]


def history(
    workdir: str | pathlib.Path, *, data_name: str | None = None, n_images: int = 1000, n_rows: int = 6
) -> History:
    """Aligns test images with the weights of several checkpoints of a run.

    Args:
      workdir: its folder.
      data_name: where its data are now, if they were moved.
      n_images: test images, the first ones.
      n_rows: checkpoints at most, evenly spaced in the logarithm of their number.

    Returns:
      A `History`.

    Raises:
      Mistake: if there is no run in `workdir`, it kept fewer than two checkpoints, or its data have no labels.
    """
    experiment = load_experiment(workdir, data_name)
    splits = data.load(experiment.data)
    if not splits.class_names:
        raise Mistake(f"{workdir}: expected data with labels, for orientations are compared within a class")
    checkpoints = list(load_all(workdir))
    if len(checkpoints) < 2:
        raise Mistake(
            f"{workdir}: expected at least two checkpoints, got {len(checkpoints)}; train with a larger train.keep_last"
        )
    images, poses = splits.test.images[:n_images], splits.test.poses[:n_images]
    chosen = np.unique(np.geomspace(1, len(checkpoints), min(n_rows, len(checkpoints))).round().astype(int)) - 1
    rotations = {}
    for step, params in (checkpoints[i] for i in chosen):
        alpha = over_batches(lambda x, params=params: align(params, x).alpha, (images,), f"step {step}, test images")
        epoch = step * experiment.train.batch_size / experiment.data.n_train
        rotations[epoch] = metrics.net_rotation(params.model.transform, alpha, poses, experiment.data.transform)
    return History(rotations, splits.test.labels[:n_images], splits.class_names)
