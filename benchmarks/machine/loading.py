"""Loading: time to prepare a set, images a second from the cache, and memory over many steps.

    # 60,000 images of 28x28, 10,000 steps
    PYTHONPATH=benchmarks python benchmarks/machine/loading.py --images=path/to/mnist.npz

The archive holds x_train [N, H, W] and y_train [N], uint8. Its images are written as gzipped idx files, as MNIST is
published; "prepare" is all that turns those into a set that trains: packing into TFDS records, as by
`tools/prepare_tfds.py`, and decoding those into the cache. Everything is in a temporary folder. "As drawn" is what a
training step asks for, `images[order[step]]`: the order by Grain, rows from the memory map, float32.
"""

import gzip
import os
import pathlib
import struct
import sys
import tempfile
import time

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from protocol import facts, flags, save

from avae.data import dataset as data
from avae.report.page import environment

BATCH = 128
POINTS = 6


class LoadingBenchmark(tfds.core.GeneratorBasedBuilder):
    """The images of two gzipped idx files, as the MNIST of TFDS; `tfds:loading_benchmark`."""

    VERSION = tfds.core.Version("1.0.0")
    SOURCE = pathlib.Path()

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 1)),
            "label": tfds.features.ClassLabel(num_classes=256),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
        )

    def _split_generators(self, _):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i, (image, label) in enumerate(
            zip(read_idx(self.SOURCE / "images"), read_idx(self.SOURCE / "labels"), strict=True)
        ):
            yield i, {"image": Image.fromarray(image), "label": int(label)}


def write_idx(path: pathlib.Path, array: np.ndarray) -> None:
    head = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(head + array.tobytes(), 6))


def read_idx(path: pathlib.Path) -> np.ndarray:
    content = gzip.decompress(path.read_bytes())
    shape = struct.unpack_from(f">{content[3]}I", content, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)


class Clock:
    """Seconds since the last look: by the clock, and of processor time, which other work hardly changes."""

    def __init__(self) -> None:
        self._last = np.array([time.perf_counter(), time.process_time()])

    def look(self) -> np.ndarray:
        now = np.array([time.perf_counter(), time.process_time()])
        past, self._last = now - self._last, now
        return past


def prepare(folder: pathlib.Path) -> dict:
    """[wall, processor] seconds of each part of the way from idx files to the cache, and of opening it again."""
    LoadingBenchmark.SOURCE = folder
    os.environ["TFDS_DATA_DIR"], os.environ["AVAE_CACHE"] = str(folder / "tfds"), str(folder / "cache")
    clock = Clock()
    builder = LoadingBenchmark(data_dir=folder / "tfds", file_format="array_record")
    builder.download_and_prepare()
    packed, n = clock.look(), builder.info.splits["train"].num_examples
    described(n)
    decoded = clock.look()
    described(n)
    again = clock.look()
    parts = {"records": packed, "cache": decoded, "total": packed + decoded, "again": again}
    return {"images": n} | {name: seconds.tolist() for name, seconds in parts.items()}


def described(n: int) -> data.Splits:
    return data.load(data.Data(name="tfds:loading_benchmark", pose="fresh", n_train=n - 1, n_test=1))


def speed(images, order, steps: int = 500, repeats: int = 5) -> dict:
    """Images a second, rows alone and as drawn: by the clock (median and extremes) and by processor time (median)."""
    rows = [order[step] for step in range(steps)]
    found = {}
    for name, draw in (("rows", lambda step: images[rows[step]]), ("as drawn", lambda step: images[order[step]])):
        rates = []
        for _ in range(repeats):
            clock = Clock()
            for step in range(steps):
                draw(step)
            rates.append(steps * BATCH / clock.look())
        wall, processor = np.transpose(rates)
        found[name] = {
            "median": float(np.median(wall)),
            "slowest": wall.min(),
            "fastest": wall.max(),
            "processor": float(np.median(processor)),
        }
    return found


def memory() -> dict[str, float]:
    """MB of this process: resident, and of those what is not a mapped file (which the system may drop at any time)."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith(("VmRSS", "RssFile"))}
    return {"resident": kilobytes["VmRSS"] / 1e3, "own": (kilobytes["VmRSS"] - kilobytes["RssFile"]) / 1e3}


def over_steps(images, order, steps: int) -> list[dict[str, float]]:
    """Memory at several points of a run that draws `steps` batches."""
    points = {round(i * steps / (POINTS - 1)) for i in range(POINTS)}
    rows = []
    for step in range(steps + 1):
        if step in points:
            rows.append({"step": step} | memory())
        images[order[step]]
    return rows


def table(rows: dict) -> str:
    lines = ["| what | by the clock | by processor time |", "|---|---|---|"]
    for name, what in (
        ("records", "idx files to TFDS records"),
        ("cache", "records to the cache"),
        ("total", "both: a set prepared"),
        ("again", "opening the cache again, checksums included"),
    ):
        wall, processor = rows["prepare"][name]
        lines.append(f"| {what}, {rows['prepare']['images']:,} images | {wall:.2f} s | {processor:.2f} s |")
    for name, rate in rows["speed"].items():
        spread = f"({rate['slowest']:,.0f}-{rate['fastest']:,.0f})"
        lines.append(
            f"| {name}, batches of {BATCH} | {rate['median']:,.0f} {spread} images/s | {rate['processor']:,.0f} |"
        )
    lines += ["", "| step | resident, MB | of them not mapped files, MB |", "|---|---|---|"]
    lines += [f"| {row['step']:,} | {row['resident']:.1f} | {row['own']:.1f} |" for row in rows["memory"]]
    return "\n".join(lines)


def main() -> None:
    parser = flags(__doc__)
    parser.add_argument("--images", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, default=10_000)
    options = parser.parse_args()
    if not sys.platform.startswith("linux"):
        sys.exit("error: memory is read from /proc, which Linux has")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        with np.load(options.images) as archive:
            write_idx(folder / "images", archive["x_train"])
            write_idx(folder / "labels", archive["y_train"].astype(np.uint8))
        rows: dict = {"prepare": prepare(folder)}
        images = described(rows["prepare"]["images"]).train.images
        order = data.order(len(images), BATCH, seed=0)
        rows |= {"memory": over_steps(images, order, options.steps), "speed": speed(images, order)}
    where = environment()
    text = f"# Loading\n\n{facts(where)}\n\n{table(rows)}\n"
    save(options.out, "loading", {"environment": where, **rows}, text)


if __name__ == "__main__":
    main()
