"""Examples to figures: images as they are, volumes as rendered views and as central slices."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from avae.report.figures import COLOURS, DPI, INK, LITERAL, MUTED, WIDTH

MARGIN, GAP = 1.3, 0.06  # inches for the labels; gaps as a fraction of a picture
TURN, TILT = np.radians(30), np.radians(25)
LIGHT = np.array([-0.45, -0.65, 0.61])  # from the upper left, in front


def grid(
    images: np.ndarray,
    canonical: np.ndarray,
    reconstruction: np.ndarray,
    matrix: np.ndarray,
    plain: np.ndarray | None = None,
) -> Figure:
    """One column per example: what came in, what the encoder saw, what came back, and what a plain VAE makes of it.

    Args:
      images: inputs [N, *space, C] (volumes are rendered, at most 8 of them; for channels see `picture`); the tick at
        the edge points to what becomes "up" in the canonical frame.
      canonical: tau_alpha* x [N, *frame, C], of any size.
      reconstruction: of the AVAE, in the frame of the input [N, *space, C].
      matrix: pull maps of the poses that were found [N, d, d+1].
      plain: reconstruction of a plain VAE [N, *space, C].
    """
    span, n = contrast(images), 8 if images.ndim == 5 else None
    rows = _rows(images, canonical, reconstruction, plain)
    pictures = {name: [picture(example, *span) for example in stack[:n]] for name, stack in rows.items()}
    figure, axes = _gallery(pictures)
    for ax, pull in zip(axes[0], matrix, strict=False):
        _tick(ax, pull, images.shape[1:-1], frame=np.shape(ax.images[0].get_array())[:2])
    return figure


def slices(
    images: np.ndarray,
    canonical: np.ndarray,
    reconstruction: np.ndarray,
    matrix: np.ndarray,
    plain: np.ndarray | None = None,
) -> Figure:
    """The three central slices of up to four volumes, in the rows of `grid`, whose arguments it takes."""
    span = contrast(images)
    rows = _rows(images, canonical, reconstruction, plain)
    pictures = {
        name: [picture(plane, *span) for volume in stack[:4] for plane in central_slices(volume)]
        for name, stack in rows.items()
    }
    return _gallery(pictures, group=3, titles=["x-y", "x-z", "z-y"] * 4)[0]


@LITERAL
def strips(names: Sequence[str], steps: np.ndarray, pictures: np.ndarray) -> Figure:
    """One row per direction in the space of the latents, with what is decoded along it.

    Args:
      names: of the directions [K].
      steps: standard deviations from the mean [S]; volumes, which are rendered, are shown at every other step.
      pictures: [K, S, *frame, C].
    """
    some = slice(None, None, 2 if pictures.ndim == 6 else 1)
    span = contrast(np.nan_to_num(pictures.reshape(-1, *pictures.shape[2:])))
    rows = {name: [picture(example, *span) for example in row[some]] for name, row in zip(names, pictures, strict=True)}
    return _gallery(rows, titles=["mean" if step == 0 else f"{step:+g}" for step in steps[some]])[0]


@LITERAL
def averages(raw: np.ndarray, aligned: np.ndarray, titles: Sequence[str]) -> Figure:
    """One column per group: the mean of its images as they are [K, *space, C], and aligned [K, *frame, C]."""
    low, high = zip(contrast(np.nan_to_num(raw)), contrast(np.nan_to_num(aligned)), strict=True)
    span = np.minimum(*low), np.maximum(*high)
    rows = {"as they are": raw, "aligned": aligned}
    return _gallery({name: [picture(mean, *span) for mean in means] for name, means in rows.items()}, titles=titles)[0]


def contrast(images: np.ndarray) -> tuple[Any, Any]:
    """The lowest and highest value of images [N, *space, C]: one of each for grey and colour, else for each channel."""
    axes = None if images.shape[-1] in (1, 3) else tuple(range(images.ndim - 1))
    return images.min(axis=axes), images.max(axis=axes)


def picture(example: np.ndarray, low: Any = 0.0, high: Any = 1.0) -> np.ndarray:
    """An example [*space, C] as brightness [H, W] or colour [H, W, 3] in [0, 1], with `low` and `high` at the ends.

    One channel is grey, two are magenta and green, of three and more the first three are red, green and blue. A volume
    is rendered, as the mean over its channels. What is not finite counts as zero.
    """
    scaled = np.clip((np.nan_to_num(example) - low) / np.maximum(high - low, 1e-6), 0, 1)
    if example.ndim == 4:
        return render(scaled.mean(axis=-1))
    return {1: scaled[..., 0], 2: scaled[..., [0, -1, 0]]}.get(example.shape[-1], scaled[..., :3])


def central_slices(volume: np.ndarray) -> list[np.ndarray]:
    """The slices [., ., C] of a volume [D, H, W, C] through its centre, across z, y and x."""
    depth, height, width = volume.shape[:3]
    return [volume[depth // 2], volume[:, height // 2], volume[:, :, width // 2].swapaxes(0, 1)]


def render(volume: np.ndarray, size: int = 112) -> np.ndarray:
    """A view of a volume from obliquely above: orthographic, composited from front to back, shaded by its gradient.

    The object is turned by 30 degrees about y and tilted by 25 degrees towards the viewer, who stands at +z; y points
    down. A voxel of value 1 is all but opaque, one of 0 is clear (Levoy 1988).

    Args:
      volume: [D, H, W] in [0, 1].
      size: side of the view in pixels.

    Returns:
      Brightness [size, size] in [0, 1] on white.
    """
    from scipy.ndimage import affine_transform, gaussian_filter  # comes with JAX; slow to import

    side = max(volume.shape)  # voxels across the view, and layers in depth
    step = np.array([1, side / size, side / size])  # from the view, in the order z, y, x, to the volume
    linear = view(3).T[::-1, ::-1] * step
    middle = (np.array([side, size, size]) - 1) / 2
    offset: Any = (np.array(volume.shape) - 1) / 2 - linear @ middle

    def seen(field: np.ndarray) -> np.ndarray:
        return affine_transform(field, linear, offset, (side, size, size), np.float32, order=1)[::-1]  # front first

    slopes: Any = np.gradient(gaussian_filter(volume, 0.9))
    normals = np.stack([-seen(slope) for slope in slopes[::-1]], axis=-1)
    lit = normals @ (view(3).T @ (LIGHT / np.linalg.norm(LIGHT)))
    lit = lit / np.maximum(np.linalg.norm(normals, axis=-1), 1e-3)
    shade = 0.22 + 0.7 * ((1 + lit) / 2) ** 1.5
    clear = np.cumprod(1 - 0.97 * seen(volume) ** 1.5, axis=0)  # light that is left behind each layer
    weight = -np.diff(clear, axis=0, prepend=1.0)
    return np.clip((weight * shade).sum(axis=0) + clear[-1], 0, 1)


def view(dim: int) -> np.ndarray:
    """From an example's axes x, y(, z) to those of its picture [dim, dim]: the identity for images."""
    if dim == 2:
        return np.eye(2)
    turn = np.array([[np.cos(TURN), 0, np.sin(TURN)], [0, 1, 0], [-np.sin(TURN), 0, np.cos(TURN)]])
    tilt = np.array([[1, 0, 0], [0, np.cos(TILT), np.sin(TILT)], [0, -np.sin(TILT), np.cos(TILT)]])
    return tilt @ turn


def _rows(
    images: np.ndarray, canonical: np.ndarray, reconstruction: np.ndarray, plain: np.ndarray | None
) -> dict[str, np.ndarray]:
    rows = {"input": images, "canonical": canonical, "AVAE": reconstruction}
    return rows if plain is None else rows | {"plain VAE": plain}


def _gallery(
    rows: Mapping[str, Sequence[np.ndarray]], group: int = 0, titles: Sequence[str] = ()
) -> tuple[Figure, np.ndarray]:
    """Named rows of pictures in equal boxes, a wider gap after every `group`; the figure and its axes [rows, n].

    `titles` stand above the pictures of the first row.
    """
    first = next(iter(rows.values()))
    n, aspect = len(first), max(picture.shape[0] / picture.shape[1] for picture in first)
    gaps = np.array([4 * GAP if group and i % group == 0 else GAP for i in range(1, n)])
    cell = (WIDTH - MARGIN) / max(n + gaps.sum(), 4)  # one or two pictures do not fill the page
    top = 0.22 if titles else 0.0
    height = cell * (aspect * len(rows) + GAP * (len(rows) - 1)) + top
    figure = Figure((WIDTH, height), dpi=DPI, facecolor="white")
    left = MARGIN + cell * (np.arange(n) + np.append(0, gaps.cumsum()))
    axes = np.empty((len(rows), n), object)
    for i, (name, pictures) in enumerate(rows.items()):
        bottom = height - top - cell * (aspect * (i + 1) + GAP * i)
        for j, picture in enumerate(pictures):
            box = (left[j] / WIDTH, bottom / height, cell / WIDTH, cell * aspect / height)
            axes[i, j] = ax = figure.add_axes(box)
            ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        label = f"{name}\nreconstruction" if name in COLOURS else name
        style = {"fontsize": 10, "color": COLOURS.get(name, INK), "linespacing": 1.3}
        axes[i, 0].set_ylabel(label, rotation=0, ha="right", va="center", labelpad=8, **style)
    for ax, title in zip(axes[0], titles, strict=False):
        ax.set_title(title, fontsize=8, color=MUTED, pad=3)
    return figure, axes


def _tick(ax: Axes, pull: np.ndarray, space: tuple[int, ...], frame: tuple[int, ...]) -> None:
    """Marks on an input of shape `space`, shown with `frame` pixels, what the pull map brings to the canonical top."""
    dim = len(space)
    centre, unit = (np.array(frame[::-1]) - 1) / 2, min(frame) / 2 * (min(space) / max(space) if dim == 3 else 1)
    up = pull[:, :dim] @ -np.eye(dim)[1]
    up = up / np.linalg.norm(up)
    inner, outer = (centre + unit * (view(dim) @ (pull[:, dim] + radius * up))[:2] for radius in (0.62, 0.9))
    behind = dim == 3 and (view(3) @ up)[2] < 0
    style: dict[str, Any] = {"color": "#56B4E9", "alpha": 0.4 if behind else 1.0}
    ends = zip(inner, outer, strict=True)
    ax.plot(*ends, linewidth=1.6, solid_capstyle="round", scalex=False, scaley=False, **style)
    ax.add_patch(Circle((float(outer[0]), float(outer[1])), radius=0.09 * min(frame) / 2, linewidth=0, **style))
