"""`avae align` from disk to disk: resident memory by the number of images, and images/s beside those of `avae.align`.

python benchmarks/stream.py memory [--images=10000,50000,500000]
python benchmarks/stream.py speed [--images=10000] [--turns=5] [--search=cheap|default]
python benchmarks/stream.py kills [--images=6000] [--kills=10]

The images are 64x64, 8-bit, in a .npy that is mapped from disk: one object at random shifts under noise. The model is
a small MLP, trained for a few steps: neither memory nor speed depends on what it learned.
"""

import argparse
import contextlib
import io
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

SIDE = 64
PART = 5000  # images made at a time


# The command, and then its peak: what wait4 says of a child counts the memory of its parent before exec as well.
MEASURED = """
import pathlib, sys
from avae import cli
cli.main(sys.argv[2:])
status = pathlib.Path("/proc/self/status").read_text()
pathlib.Path(sys.argv[1]).write_text(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


def images(n: int, path: pathlib.Path) -> None:
    """Writes `n` images, a part at a time."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    picture = np.exp(-((x / 12) ** 2 + (y / 5) ** 2)) + np.exp(-((x - 8) ** 2 + (y - 10) ** 2) / 9)
    rolled = [np.roll(picture, (dy, dx), (0, 1)) for dy in range(-6, 7) for dx in range(-6, 7)]
    kinds = np.stack(rolled).astype(np.float32)
    file = np.lib.format.open_memmap(path, "w+", np.uint8, (n, SIDE, SIDE))
    noise = rng.normal(0, 12, (64, SIDE, SIDE)).astype(np.float32)
    for start in range(0, n, PART):
        size = min(PART, n - start)
        part = 60 + 120 * kinds[rng.integers(len(kinds), size=size)] + noise[rng.integers(64, size=size)]
        file[start : start + size] = np.clip(part, 0, 255)
    file.flush()


def trained(folder: pathlib.Path, family: str) -> pathlib.Path:
    """A run of two epochs on 2,000 images."""
    from avae import cli

    images(2000, folder / "few.npy")
    flags = ["--transform", family, "--latent=4", "--epochs=2", "--set", "model.hidden=(32,)"]
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        cli.main(["train", str(folder / "few.npy"), "--out", str(folder / "run"), *flags])
    return folder / "run"


def started(run: pathlib.Path, data: pathlib.Path, out: pathlib.Path) -> subprocess.Popen:
    """The command in a process of its own."""
    command = [
        sys.executable,
        "-c",
        MEASURED,
        str(run.parent / "peak"),
        "align",
        str(run),
        str(data),
        "--out",
        str(out),
    ]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(run.parent / "cache")}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def memory(folder: pathlib.Path, sizes: list[int]) -> None:
    """Peak resident memory of the command, one process for each number of images; quarter turns are found fastest."""
    run = trained(folder, "quarter_turns")
    print("| images | data, GiB | peak resident, GiB | seconds |\n|---|---|---|---|", flush=True)
    for n in sizes:
        data, out = folder / f"{n}.npy", folder / f"poses{n}"
        images(n, data)
        clock = time.monotonic()
        if started(run, data, out).wait():
            raise RuntimeError("avae align failed")
        seconds, peak = time.monotonic() - clock, int((folder / "peak").read_text()) / 2**20
        print(f"| {n:,} | {n * SIDE**2 / 2**30:.2f} | {peak:.2f} | {seconds:.0f} |", flush=True)
        data.unlink()
        (out / "aligned.npy").unlink()


def speed(folder: pathlib.Path, n: int, turns: int, search: str) -> None:
    """Images/s of both in turns, in one process, each after a call that compiles."""
    import jax

    import avae
    from avae.poses import folder as poses

    family = "quarter_turns" if search == "cheap" else "rigid"
    run = trained(folder, family)
    images(n, folder / "data.npy")
    params, array = avae.load(run), np.load(folder / "data.npy")[..., None]

    def disk(turn: int) -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            poses.align_source(run, str(folder / "data.npy"), folder / f"poses{turn}")

    def array_in_memory(turn: int) -> None:
        jax.block_until_ready(avae.align(params, array).alpha)

    seconds: dict[str, list[float]] = {"disk": [], "memory": []}
    for turn in range(turns + 1):
        for name, function in (("memory", array_in_memory), ("disk", disk)):
            clock = time.monotonic()
            function(turn)
            seconds[name].append(time.monotonic() - clock)
    memory, disk_ = (statistics.median(seconds[name][1:]) for name in ("memory", "disk"))
    shares = [a / b for a, b in zip(seconds["memory"][1:], seconds["disk"][1:], strict=True)]
    print(
        f"{search} search of {family}, {n:,} images: avae.align {n / memory:.0f}/s, avae align {n / disk_:.0f}/s, "
        f"share {statistics.median(shares):.2f} ({min(shares):.2f} to {max(shares):.2f}) in {turns} turns"
    )


def kills(folder: pathlib.Path, n: int, times: int) -> None:
    """Kills the command again and again, and compares what it writes in the end with an undisturbed one.

    All but two kills come while rows are found, at places spread over the data; the others while tables are written.
    """
    run, draw, files = trained(folder, "quarter_turns"), random.Random(0), ("poses.csv", "poses.npz", "aligned.npy")
    images(n, folder / "data.npy")
    if started(run, folder / "data.npy", folder / "undisturbed").wait():
        raise RuntimeError("avae align failed")
    out, targets = folder / "disturbed", [*sorted(draw.uniform(0, 0.95 * n) for _ in range(times - 2)), n, n]
    for k, target in enumerate(targets):
        process = started(run, folder / "data.npy", out)
        while process.poll() is None and done(out) < target:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.3))
        if process.poll() is not None:
            raise RuntimeError(f"ended before kill {k + 1}: take more images")
        process.kill()
        process.wait()
        print(f"kill {k + 1}: {done(out):,} of {n:,} rows, tables {(out / 'poses.csv').exists()}", flush=True)
    if started(run, folder / "data.npy", out).wait():
        raise RuntimeError("avae align failed")
    same = [(out / name).read_bytes() == (folder / "undisturbed" / name).read_bytes() for name in files]
    print(", ".join(f"{name} {'the same' if one else 'OTHER'}" for name, one in zip(files, same, strict=True)))
    sys.exit(not all(same))


def done(out: pathlib.Path) -> int:
    """Rows that are found."""
    path = out / "rows.npy"
    return int(np.load(path, mmap_mode="r")["done"].sum()) if path.exists() else 0


def main() -> None:
    """Flags to functions."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("memory", "speed", "kills"))
    parser.add_argument("--images", default="")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--search", choices=("cheap", "default"), default="cheap")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        if given.what == "memory":
            memory(folder, [int(n) for n in (given.images or "10000,50000,500000").split(",")])
        elif given.what == "speed":
            speed(folder, int(given.images or 10_000), given.turns, given.search)
        else:
            kills(folder, int(given.images or 6000), given.kills)


if __name__ == "__main__":
    main()
