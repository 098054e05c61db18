"""Loss against cost: every search that `benchmarks/align.py` has timed, as one figure.

    PYTHONPATH=benchmarks python benchmarks/machine/presets.py  # from benchmarks/results to docs/images/presets.png

One panel for each result given, by default the MLP's and the convolutional VAE's. A search that is lower and further to
the left is better in both respects.
"""

import argparse
import json
import pathlib
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from protocol import RESULTS

from avae.report.figures import COLOURS, DPI, FAINT, INK, MUTED, WIDTH

NEAR = 0.01  # nats: below, the axis of losses is linear, so that it reaches zero
OURS = "avae.align "
NAMES = {"mlp": "MLP", "conv": "Convolutional"}


def draw(results: list[dict[str, Any]]) -> Figure:
    """One panel per result of `benchmarks/align.py`: J above the lowest, against milliseconds per image."""
    figure = Figure((WIDTH, 3.9), dpi=DPI, facecolor="white", layout="constrained")
    panels = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
    for ax, result in zip(panels, results, strict=True):
        points(ax, [row for row in result["rows"] if " forward" not in row["name"]])
        ax.set_title(f"{NAMES[result['network']]}, {result['side']}x{result['side']}", fontsize=10, color=INK)
    panels[0].set_ylabel("J above the lowest, nats per image", color=INK, fontsize=10)
    return figure


def points(ax: Axes, rows: list[dict[str, Any]]) -> None:
    """A labelled point for each search."""
    lowest = min(row["mean_loss_nats"] for row in rows)
    for row in rows:
        ours = row["name"].startswith(OURS)
        cost, excess = 1e3 / row["images_per_second"], row["mean_loss_nats"] - lowest
        ax.plot(cost, excess, "o", color=COLOURS["AVAE" if ours else "plain VAE"], clip_on=False)
        label = " ".join(row["name"].removeprefix(OURS).split(" ")[:-2]) if ours else "PyTorch"
        side, where = ("right", (-5, 4)) if ours else ("left", (5, 4))
        ax.annotate(label, (cost, excess), where, textcoords="offset points", ha=side, fontsize=8, color=INK)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(lambda tick, _: f"{tick:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_yscale("symlog", linthresh=NEAR)
    ax.set_ylim(bottom=0)
    ax.margins(x=0.25)
    ticks = [0.0, 0.01, 0.1, 1.0]
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("milliseconds per image", color=INK, fontsize=10)
    ax.grid(color=FAINT, linewidth=0.8)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color(MUTED)
    ax.tick_params(colors=MUTED, labelsize=9, length=0, which="both")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = [RESULTS / "align_mlp_64.json", RESULTS / "align_conv40_64.json"]
    parser.add_argument("results", type=pathlib.Path, nargs="*", default=default)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/images/presets.png"))
    args = parser.parse_args()
    figure = draw([json.loads(path.read_text()) for path in args.results])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out)
    print(args.out)


if __name__ == "__main__":
    main()
