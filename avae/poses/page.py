"""index.html of a folder of poses: averages of each group, and the images to doubt. No network, no script."""

import base64
import pathlib
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from avae.evaluation.averages import Averages
from avae.model import Params
from avae.poses import table
from avae.report.pictures import contrast, picture
from avae.runtime.files import write_whole
from avae.transforms import Transform

SHOWN = 24  # groups
WORST = 36
GAP = 4  # pixels between pictures, clear
TEMPLATE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Poses of {{ n }} images</title>
<style>
:root { color-scheme: light dark }
body { font: 16px/1.55 system-ui, sans-serif; margin: 2rem auto; max-width: 54rem; padding: 0 1rem }
h1 { font-size: 28px } h2 { font-size: 20px; margin-top: 2.5rem }
img { display: block; image-rendering: pixelated; max-width: 100%; background: #8882; border-radius: 6px }
figure { margin: 0; flex: 0 1 auto } figcaption { font-size: 14px; opacity: .7; margin-top: .3rem }
.wide { overflow-x: auto; margin-top: 1.5rem }
table { border-collapse: collapse; font-size: 15px; font-variant-numeric: tabular-nums }
td, th { padding: .3rem 1.5rem .3rem 0; text-align: right; border-bottom: 1px solid #8885 }
td:first-child, th:first-child { text-align: left }
.pair { display: flex; flex-wrap: wrap; gap: 1.5rem }
</style>
<h1>Poses of {{ "{:,}".format(n) }} images</h1>
<p>{{ "{:,}".format(bad) }} could not be aligned. J falls by {{ "%.1f"|format(gain) }} nats in the median when an image
is aligned.{% if mirrored is not none %} {{ "%.0f"|format(100 * mirrored) }} % are mirror images.{% endif %}
Tables: <a href="poses.csv">poses.csv</a> (<a href="columns.txt">columns</a>), poses.npz.</p>
<h2>Averages</h2>
<p>Of the {{ kind }}, in the order of the table: as the images are, and aligned.</p>
<div class="pair">
<figure><img alt="averages of the images as they are" src="{{ raw }}"><figcaption>as they are</figcaption></figure>
<figure><img alt="averages of the aligned images" src="{{ aligned }}"><figcaption>aligned</figcaption></figure>
</div>
<div class="wide"><table><tr><th>group</th><th>images</th><th>J, median</th><th>std of the pose, median</th></tr>
{% for row in groups %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</table></div>
<h2>Images to doubt</h2>
<p>The images that the model explains worst, the worst first; rows {{ rows }}.</p>
<img alt="the images that are explained worst" src="{{ doubted }}">
</html>
"""


def write(
    out: pathlib.Path,
    images: Any,
    aligned: Any,
    rows: np.ndarray,
    groups: Averages,
    params: Params,
    labels: list[str] | None,
) -> None:
    """Writes averages.png, averages_raw.png, worst.png and index.html into `out`."""
    family, space = params.model.transform, images.shape[1:-1]
    columns = _columns(rows, family, space)
    doubted = worst(rows)
    side = int(np.ceil(np.sqrt(min(SHOWN, len(groups.names)))))
    montage(groups.raw[:SHOWN], side, out / "averages_raw.png")
    montage(groups.aligned[:SHOWN], side, out / "averages.png")
    montage(
        np.stack([np.asarray(images[int(row)]) for row in doubted]), int(np.ceil(np.sqrt(WORST))), out / "worst.png"
    )
    finite = np.asarray(rows["finite"])
    gain = np.asarray(rows["loss_at_identity"] - rows["loss"])[finite]
    first = next((name for name in columns if name.startswith("std_")), None)
    lines = []
    for k, name in enumerate(groups.names[:SHOWN]):
        of_group = groups.group == k
        spread = (
            "" if first is None or not of_group.any() else f"{np.median(columns[first][of_group]):.3g} ({first[4:]})"
        )
        loss = f"{np.median(rows['loss'][of_group]):.1f}" if of_group.any() else ""
        lines.append((name, f"{groups.count[k]:,}", loss, spread))
    text = jinja2.Environment(autoescape=True).from_string(TEMPLATE).render(
        n=len(rows),
        bad=int((~finite).sum()),
        gain=float(np.median(gain)) if len(gain) else 0.0,
        mirrored=float(columns["mirrored"][finite].mean()) if columns["mirrored"].any() else None,
        kind="labels" if labels else "groups that k-means finds in the latents",
        raw=_inline(out / "averages_raw.png"),
        aligned=_inline(out / "averages.png"),
        doubted=_inline(out / "worst.png"),
        groups=lines,
        rows=", ".join(map(str, doubted.tolist())),
    )  # fmt: skip
    write_whole(out / "index.html", text)


def _columns(rows: np.ndarray, family: Transform, space: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The columns that are shown, made a bounded number of rows at a time."""
    parts = []
    for start in range(0, len(rows), table.ROWS):
        part = table.columns(np.asarray(rows[start : start + table.ROWS]), family, space)
        parts.append({name: part[name] for name in part if name.startswith("std_") or name == "mirrored"})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _inline(path: pathlib.Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def worst(rows: np.ndarray, n: int = WORST) -> np.ndarray:
    """The images [<= n] that are explained worst, the worst first: those that could not be aligned, then by loss."""
    loss = np.where(rows["finite"], rows["loss"], np.inf)
    return np.argsort(-loss, kind="stable")[:n]


def montage(images: np.ndarray, columns: int, path: pathlib.Path) -> None:
    """Images [N, *space, C] side by side as a PNG, each with its own contrast; volumes are rendered."""
    tiles = [_tile(image) for image in images]
    zoom = max(1, 96 // max(tiles[0].shape))
    tiles = [tile.repeat(zoom, axis=0).repeat(zoom, axis=1) for tile in tiles]
    height, width = tiles[0].shape[:2]
    lines = -(-len(tiles) // columns)
    sheet = np.zeros((lines * (height + GAP) + GAP, columns * (width + GAP) + GAP, 4), np.uint8)
    for k, tile in enumerate(tiles):
        y, x = GAP + k // columns * (height + GAP), GAP + k % columns * (width + GAP)
        sheet[y : y + height, x : x + width, :3] = tile
        sheet[y : y + height, x : x + width, 3] = 255
    Image.fromarray(sheet).save(path)


def _tile(image: np.ndarray) -> np.ndarray:
    image = np.nan_to_num(np.asarray(image, np.float32))
    shown = picture(image, *contrast(image[None]))
    shown = shown if shown.ndim == 3 else np.repeat(shown[..., None], 3, axis=-1)
    return (255 * np.clip(shown, 0, 1)).round().astype(np.uint8)
