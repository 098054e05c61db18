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
# # avae: find the pose of every image
#
# The affine variational autoencoder finds for each image the pose at which it explains it best. This notebook aligns
# digits with weights that the package has, in seconds, and then trains on images of your own.
#
# It runs in a clone as it is. On Colab upload the library first (the folder symbol on the left): the archive that the
# page of the repository offers for download. Its name begins with "avae". It runs on a CPU; for more, choose a GPU or
# a TPU under *Runtime, Change runtime type*, and say so in `ACCELERATOR`.

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

# %% [markdown]
# ## Align
#
# Digits, each turned by an angle of its own. The figure shows them as they came (the tick points to what becomes
# "up"), in the pose that the model chose, and their reconstructions. `found` also has the uncertainty of each pose
# (`std`), the pull map (`matrix`), the latent, and the loss in nats.

# %%
import tempfile

import jax
import numpy as np
from PIL import Image

import avae

print(f"avae on {jax.device_count()} x {jax.devices()[0].device_kind}, JAX {jax.__version__}")
RUNS = pathlib.Path(os.environ.get("AVAE_RUNS") or tempfile.mkdtemp(prefix="avae_"))


def show(figure, name):
    """Saves a figure, and shows it where there is a notebook around."""
    path = RUNS / f"{name}.png"
    figure.savefig(path)
    if "get_ipython" in globals():
        globals()["display"](Image.open(path))
    print(path)


upright, labels = avae.examples("digits", 24 if SHORT else 1_000)
angles = np.random.default_rng(0).uniform(-np.pi, np.pi, len(upright)).astype(np.float32)
images = np.asarray(avae.warp(upright, jax.vmap(avae.Rotation().matrix)(angles[:, None])))

params = avae.load("digits")
found = avae.align(params, images[:8])
show(avae.figure(images[:8], found), "digits")
print("degrees:", np.round(np.degrees(found.alpha[:, 0]), 1))

# %% [markdown]
# ## Your own images
#
# `IMAGES` is a folder of PNG, JPEG or TIFF files, or a stack (`.npy`, `.mrcs`, `.tif`, ...). On Colab: `from
# google.colab import files; files.upload()`, or mount a drive. Without one, the digits above are written to a folder,
# to stand for yours. All images have one size; a few hundred are the least that is worth training on. `avae.fit`
# chooses the settings from the images and says why. Run the cell again after an interruption: it goes on where it
# was.
#
# The same on a command line, with a table of poses, averages and a page at the end: `avae train IMAGES --out run &&
# avae align run IMAGES --out poses`.

# %%
IMAGES = ""

if not IMAGES:
    IMAGES = str(RUNS / "images")
    pathlib.Path(IMAGES).mkdir(exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(np.round(255 * image[..., 0]).astype(np.uint8)).save(f"{IMAGES}/{i:04d}.png")

TINY = {"epochs": 1, "latent": 2, "batch_size": 8} if SHORT else {}
own, _ = avae.examples(IMAGES)
params = avae.fit(own, workdir=RUNS / "own", **TINY)
found = avae.align(params, own[:8])
show(avae.figure(own[:8], found), "aligned")
np.savez(RUNS / "aligned.npz", alpha=found.alpha, std=found.std, matrix=found.matrix, canonical=found.canonical)
print("poses in", RUNS / "aligned.npz")
