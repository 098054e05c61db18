"""Trains the models that the package carries and packs them into avae/weights/, in float16.

    python tools/make_weights.py digits furniture

Each is trained in runs/weights/<name> (an interrupted training resumes), and measured on its test images before and
after its weights are rounded. If that moves the loss J by more than 0.01 nats and by more than 1e-4 of it, nothing is
written.
"""

import importlib
import json
import pathlib
import sys
import tempfile

import numpy as np
from ml_collections import ConfigDict

import avae
from avae.data import dataset
from avae.run import fit_config
from avae.training import packed, run_folder

ROOT = pathlib.Path(__file__).parent.parent
LIMIT, RELATIVE = 0.01, 1e-4  # nats; of J, which is a sum over 32,768 voxels for the furniture


def config(name: str) -> ConfigDict:
    """An experiment of configs/; that of the furniture with a network small enough to ship."""
    sys.path.insert(0, str(ROOT / "configs"))
    if name == "digits":
        return importlib.import_module("rot_mnist").get_config()
    config = importlib.import_module("rot_voxels").get_config()
    config.model.hidden = (12, 64)  # 1.5 MB; (64, 64) would be 8
    config.train.epochs = 120
    return config


def loss(run: str, images: np.ndarray) -> float:
    """Mean J of images in batches, at the poses found."""
    params = avae.load(run)
    losses = [avae.align(params, images[i : i + 250]).loss for i in range(0, len(images), 250)]
    return float(np.concatenate(losses).mean())


def main(names: list[str]) -> None:
    """Trains, packs into a temporary folder, compares, and moves."""
    for name in names:
        run = ROOT / "runs" / "weights" / name
        params = fit_config(config(name), run)
        described = {file: json.loads((run / f"{file}.json").read_text()) for file in ("config", "data")}
        images = dataset.load(run_folder.load_experiment(run).data).test.images
        with tempfile.TemporaryDirectory() as folder:
            packed.write(pathlib.Path(folder), params, **described)
            before, after = loss(str(run), images), loss(folder, images)
        if not abs(after - before) < max(LIMIT, RELATIVE * before):
            sys.exit(f"{name}: J {before:.4f} becomes {after:.4f} in float16; nothing is written")
        packed.write(packed.FOLDER / name, params, **described)
        size = (packed.FOLDER / name / packed.FILE).stat().st_size / 1e6
        print(f"{name}: J {before:.4f} nats, in float16 {after:.4f}, {len(images)} test examples; {size:.2f} MB")


if __name__ == "__main__":
    if not sys.argv[1:] or set(sys.argv[1:]) - packed.SHIPPED.keys():
        sys.exit(__doc__)
    main(sys.argv[1:])
