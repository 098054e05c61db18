# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # avae: train small, align your own images
#
# The affine variational autoencoder encodes few poses, and finds for each image the pose at which it explains it best.
# This notebook installs it, trains a small one on digits at random orientations, and then one on images of your own.
#
# It runs in a clone as it is. On Colab upload the library first (the folder symbol on the left): the archive that the
# page of the repository offers for download, or the one that `git archive --prefix=avae/ -o avae.zip HEAD` makes of a
# clone. Its name begins with "avae". Choose a GPU or a TPU under *Runtime, Change runtime type*, and say so in
# `ACCELERATOR`; all of it runs on a CPU too.

# %%
import importlib.util
import os
import pathlib
import subprocess
import sys

SOURCE = (
    ""  # what pip installs: a clone, an archive of one, a wheel, or "git+https://..."; "" finds a clone or an upload
)
ACCELERATOR = ""  # "cuda12", "cuda13" or "tpu": what JAX is installed for; "" for a CPU
DEVICE = ""  # "cpu", "cuda" or "tpu"; "" takes the best there is
SHORT = os.environ.get("AVAE_SMOKE") == "1"  # a minute in all, to see that everything runs

if importlib.util.find_spec("avae") is None:
    here = pathlib.Path.cwd()
    clones = [folder for folder in (here, here.parent) if (folder / "avae" / "align.py").exists()]
    found = clones + [path for end in ("whl", "zip", "tar.gz") for path in sorted(here.glob(f"avae*.{end}"))]
    if not SOURCE and not found:
        raise SystemExit(f"avae is not installed, and not in {here}: upload its archive, or say in SOURCE where it is")
    address = SOURCE if "://" in SOURCE else pathlib.Path(SOURCE or found[0]).resolve().as_uri()
    wanted = f"avae[{ACCELERATOR}] @ {address}" if ACCELERATOR else f"avae @ {address}"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", wanted], check=True)
if DEVICE:
    os.environ["JAX_PLATFORMS"] = DEVICE  # before JAX is imported

# %%
import tempfile

import jax
import numpy as np
from PIL import Image

import avae
from avae.config import default, experiment
from avae.data import dataset as data, sources
from avae.report.figures import training_curve
from avae.report.pictures import grid
from avae.training.loop import fit
from avae.training.run_folder import claim
from avae.training.watch import read_metrics

print(f"avae on {jax.device_count()} x {jax.devices()[0].device_kind}, JAX {jax.__version__}")
N_ALIGNED = 8  # images that are not trained on, but aligned and shown
RUNS = pathlib.Path(os.environ.get("AVAE_RUNS") or tempfile.mkdtemp(prefix="avae_"))


def show(figure, name):
    """Saves a figure, and shows it where there is a notebook around."""
    path = RUNS / f"{name}.png"
    figure.savefig(path)
    if "get_ipython" in globals():
        globals()["display"](Image.open(path))
    print(path)


# %% [markdown]
# ## Train small
#
# 4,000 digits at fixed random orientations, ten passes. A setting is called as on the command line of `train.py`. The
# run is saved as it goes: run the cell again after an interruption and it goes on where it was.

# %%
config = default()
config.data.update(n_train=4_000, n_test=N_ALIGNED)
config.train.update(epochs=10)
if SHORT:
    config.data.update(n_train=16)
    config.model.update(hidden=(16,), latent=4)
    config.train.update(epochs=1, batch_size=16)

digits = RUNS / "digits"
claim(digits, config)
params = fit(experiment(config), digits)

# %% [markdown]
# ## Look at it
#
# Test digits as they came (the tick points to what becomes "up"), in the pose that the model chose, and their
# reconstructions. Then the loss while training. In a clone, `python eval.py --workdir=...` writes a whole report.

# %%
images = data.load(experiment(config).data).test.images
found = avae.align(params, images)
show(grid(images, *map(np.asarray, (found.canonical, found.reconstruction, found.matrix))), "digits")
show(training_curve({"AVAE": read_metrics(digits)}), "training")

# %% [markdown]
# ## Your own images
#
# `IMAGES` is a folder of PNG, JPEG or TIFF files, or a stack (`.npy`, `.npz`, `.mrcs`). On Colab:
# `from google.colab import files; files.upload()`, or mount a drive. Without one, some digits are written to a folder,
# to stand for yours. All images have one size; a few hundred are the least that is worth training on.

# %%
IMAGES = ""

if not IMAGES:
    IMAGES = str(RUNS / "images")
    pathlib.Path(IMAGES).mkdir(exist_ok=True)
    for i, image in enumerate(data.load(data.Data(n_train=24 if SHORT else 1_000, n_test=1)).train.images):
        Image.fromarray(np.round(255 * image[..., 0]).astype(np.uint8)).save(f"{IMAGES}/{i:04d}.png")

# %% [markdown]
# They are taken as they are (`pose="upright"`), for nobody knows their poses. Values are in [0, 1] for the default
# likelihood; for others, and for `.mrcs`, set `config.likelihood.name = "gaussian"`.

# %%
N_IMAGES = 24 if SHORT else 1_000  # how many to use; if there are fewer, the error says how many

config = default()
config.data.update(name=IMAGES, pose="upright", n_train=N_IMAGES - N_ALIGNED, n_test=N_ALIGNED)
config.model.image_shape = sources.read(IMAGES, dim=2, n_train=1, n_test=1).train_images.shape[1:]
config.train.update(epochs=20, batch_size=min(64, N_IMAGES - N_ALIGNED))
if SHORT:
    config.model.update(hidden=(16,), latent=4)
    config.train.update(epochs=1)

own = RUNS / "own"
claim(own, config)
params = fit(experiment(config), own)

# %% [markdown]
# ## Align them
#
# `found` has, for each image, the pose (`alpha`, in radians for rotations) and its uncertainty (`std`), the pull map
# (`matrix`), the image in the canonical pose, its reconstruction in its own frame, and the loss in nats.

# %%
images = data.load(experiment(config).data).test.images
found = avae.align(params, images)
show(grid(images, *map(np.asarray, (found.canonical, found.reconstruction, found.matrix))), "aligned")
np.savez(RUNS / "aligned.npz", alpha=found.alpha, std=found.std, matrix=found.matrix, canonical=found.canonical)
print("degrees:", np.round(np.degrees(found.alpha[:, 0]), 1), "in", RUNS / "aligned.npz")
