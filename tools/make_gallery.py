"""Draws the moving pictures of docs/gallery.md into docs/images/: a search, and a training run.

    python tools/make_gallery.py search      # on the weights that the package has
    python tools/make_gallery.py training    # trains for 12 epochs on 3,000 digits first, in runs/gallery

They stand on a dark ground of their own, which suits a light page and a dark one.
"""

import importlib
import pathlib
import sys

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from PIL import Image

import avae
from avae import settings
from avae.align import best, look_around, refine_all, score, top_k
from avae.objective import pose_loss, twin_loss
from avae.run import fit_config
from avae.training.checkpoint import load_all

matplotlib.use("agg")
import matplotlib.pyplot as plt

ROOT = pathlib.Path(__file__).parent.parent
TARGET = ROOT / "docs" / "images"
GROUND, INK, MUTED, POINTS = "#15171c", "#e8e8ea", "#7d818c", "#4ea1ff"
STAGES = (
    "1. score: J at 48 starts",
    "2. top k: the best three",
    "3. look around: four poses in the cell of each",
    "4. refine the best two by gradient",
    "5. best: the best pose seen",
)


def search(number: int = 4) -> None:
    """The stages of `avae.align.search_one` for one digit, upside down, over the whole curve of J."""
    params = avae.load("digits")
    x = jnp.asarray(avae.examples("digits", number + 1)[0][number, ::-1, ::-1])
    family, held = params.model.transform, settings.plan(params.model).search
    loss, twin = pose_loss(params, family), twin_loss(params, x, family, held.twin)
    starts = family.starts(held.n_starts)
    kept, _ = top_k(loss, x, score(*twin, starts), starts[:1], held.top_k, True)
    nearby = look_around(loss, x, kept, family, held.n_local, len(starts))
    found = refine_all(loss, x, best(nearby, held.n_refined), family, held)
    (last,) = best(found, 1).alpha
    scored = score(loss, x, starts)
    points = [scored, kept, nearby, found]
    curve = np.linspace(-np.pi, np.pi, 361, dtype=np.float32)
    losses = score(loss, x, curve[:, None]).loss
    frames = []
    for stage, text in enumerate(STAGES):
        shown = points[min(stage, 3)]
        for n in np.linspace(len(starts) // 6, len(starts), 6, dtype=int) if stage == 0 else (len(shown.alpha),):
            alpha, value = shown.alpha[:n], shown.loss[:n]
            pose = last if stage == 4 else alpha[jnp.argmin(value)]
            frames.append(_search_frame(text, curve, losses, (alpha, value), pose, x, stage))
    _save("search.gif", frames, [250] * 5 + [1500] * 5 + [0])


def _search_frame(text, curve, losses, points, pose, x, stage):
    figure, (ax, before, after) = plt.subplots(
        1, 3, figsize=(8, 2.9), dpi=90, width_ratios=(3, 1, 1), facecolor=GROUND, layout="constrained"
    )
    figure.suptitle(text, color=INK, x=0.02, ha="left", fontsize=12)
    ax.set_facecolor(GROUND)
    ax.plot(np.degrees(curve), losses, color=MUTED, lw=1)
    alpha, value = points
    ax.plot(np.degrees(alpha[:, 0]), value, "o", color=POINTS, ms=4 if stage == 0 else 6)
    if stage == 4:
        ax.plot(np.degrees(pose[0]), jnp.min(value), "o", color=INK, ms=9)
    ax.set_xlabel("angle, degrees", color=INK)
    ax.set_ylabel("J, nats", color=INK)
    ax.set_xticks(range(-180, 181, 90))
    ax.tick_params(colors=MUTED)
    for side in ax.spines.values():
        side.set_color(MUTED)
    moved = avae.warp(x, avae.Rotation().matrix(pose))
    for one, image, title in ((before, x, "as it came"), (after, moved, "at the best pose so far")):
        one.imshow(image[..., 0], cmap="gray", vmin=0, vmax=1)
        one.set_title(title, color=INK, fontsize=9)
        one.axis("off")
    return _picture(figure)


def training() -> None:
    """Canonical forms of test digits by every checkpoint of a short run."""
    sys.path.insert(0, str(ROOT / "configs"))
    config = importlib.import_module("rot_mnist").get_config()
    config.data.update(n_train=3000, n_test=400)
    config.train.update(epochs=12, checkpoint_every=12, keep_last=30, warmup_steps=20)
    run = ROOT / "runs" / "gallery"
    fit_config(config, run)
    upright, labels = avae.examples("digits", 400)
    chosen = np.concatenate([np.flatnonzero(labels == digit)[:4] for digit in (2, 3, 4, 5, 6, 7)])
    angles = np.random.default_rng(0).uniform(-np.pi, np.pi, (len(chosen), 1)).astype(np.float32)
    x = np.asarray(avae.warp(upright[chosen], jax.vmap(avae.Rotation().matrix)(angles)))
    frames = [_training_frame("as they came", x)]
    for step, params in load_all(run):
        found = avae.align(params, x)
        text = f"step {step}: canonical forms, J {float(found.loss.mean()):.0f} nats"
        frames.append(_training_frame(text, np.asarray(found.canonical)))
    _save("training.gif", frames, [1200] + [350] * (len(frames) - 2) + [2500])


def _training_frame(text, images):
    figure, ax = plt.subplots(figsize=(8, 1.75), dpi=90, facecolor=GROUND, layout="constrained")
    figure.suptitle(text, color=INK, x=0.02, ha="left", fontsize=12)
    rows = np.pad(images[..., 0], ((0, 0), (1, 1), (1, 1)))
    grid = rows.reshape(6, 4, 30, 30).transpose(1, 0, 2, 3)  # a row of each digit's writers
    ax.imshow(np.block([[grid[i % 2 * 2 + j, d] for d in range(6) for j in range(2)] for i in range(2)]), cmap="gray")
    ax.axis("off")
    return _picture(figure)


def _picture(figure):
    figure.canvas.draw()
    image = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3])
    plt.close(figure)
    return image.quantize(48, dither=Image.Dither.NONE)


def _save(name, frames, durations):
    path = TARGET / name
    durations = [*durations[: len(frames) - 1], 3000]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=True)
    print(f"{path}: {len(frames)} frames, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    pictures = {"search": search, "training": training}
    if not sys.argv[1:] or set(sys.argv[1:]) - pictures.keys():
        sys.exit(__doc__)
    for name in sys.argv[1:]:
        pictures[name]()
