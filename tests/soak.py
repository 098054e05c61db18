"""Kills a short run at random, again and again, until it has ended; its weights must be those of an undisturbed run.

python tests/soak.py [--kills=100] [--seed=0] [--folder=FOLDER]

Prints a line per kill, and at the end whether the weights are bit-equal; the exit code is 0 only if they are. Each
start costs some seconds before the first step.
"""

import argparse
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).parent.parent
EARLY = 0.1  # share of the kills that come while a run is still starting
BEGUN = "/20 steps"  # what a run says once it has done a step


def start(folder: pathlib.Path) -> tuple[subprocess.Popen, pathlib.Path]:
    """A run of one process in `folder`, slowed so that there is time to kill it, and the log of this start."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "cache"),  # so that a start takes seconds
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": str(ROOT),
        "AVAE_SLOW": "0.05",
    }
    log = folder / f"log{len(list(folder.glob('log*')))}"
    with log.open("w") as file:
        command = [sys.executable, "tests/on_many_hosts.py", str(folder), "0", "1", "0"]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file), log


def wait_for_step(run: subprocess.Popen, log: pathlib.Path) -> float:
    """The time at which the run had done a step, or was seen to have ended."""
    while run.poll() is None and BEGUN not in log.read_text():
        time.sleep(0.01)
    return time.monotonic()


def weights(folder: pathlib.Path) -> list[bytes]:
    """The bytes of every array with which a run ended."""
    with np.load(folder / "weights.npz") as arrays:
        return [arrays[name].tobytes() for name in arrays.files]


def soak(folder: pathlib.Path, kills: int, seed: int = 0) -> tuple[int, int, bool]:
    """Kills a run `kills` times at random moments.

    Where it ends before the last kill, it begins again in an empty folder and is compared first.

    Returns:
      How often it was killed while it ran, how many runs were ended, and whether all ended in the weights of an
      undisturbed run.
    """
    clock = time.monotonic()
    run, log = start(folder / "undisturbed")
    begun = wait_for_step(run, log)
    if run.wait():
        raise RuntimeError(log.read_text())
    starting, running = begun - clock, time.monotonic() - begun
    expected = weights(folder / "undisturbed")

    draw, killed, ended, same = random.Random(seed), 0, 0, True
    while killed < kills or not ended:
        here = folder / f"disturbed{ended}"
        run, log = start(here)
        early = draw.random() < EARLY
        if not early:
            wait_for_step(run, log)
        try:
            code = run.wait(draw.uniform(0, starting if early else running / 3) if killed < kills else None)
        except subprocess.TimeoutExpired:
            run.kill()
            run.wait()
            killed += 1
            steps = sorted(int(path.name) for path in here.glob("checkpoints/*") if path.name.isdigit())
            print(f"kill {killed}{', early' if early else ''}: checkpoints {steps}", flush=True)
            continue
        if code:
            raise RuntimeError(log.read_text())
        ended += 1
        same = same and weights(here) == expected
        print(f"run {ended} ended after {killed} kills: {'the same' if same else 'OTHER'} weights", flush=True)
    return killed, ended, same


def main() -> None:
    """Flags to `soak`, and the result in one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=pathlib.Path)
    given = parser.parse_args()
    folder, clock = given.folder or pathlib.Path(tempfile.mkdtemp()), time.monotonic()
    killed, ended, same = soak(folder, given.kills, given.seed)
    minutes = (time.monotonic() - clock) / 60
    print(f"{killed} kills, {ended} runs ended, weights {'bit-equal' if same else 'DIFFERENT'}, {minutes:.1f} minutes")
    sys.exit(not same)


if __name__ == "__main__":
    main()
