"""Flags and fixtures that the tests share: small random models and pictures, made here, without any data file."""

import gc
import os
import pathlib

import jax
import numpy as np
import pytest

import avae
from avae.evaluation import evaluate
from avae.inference.health import Health, health
from avae.training import watch

QUICK = (  # compiles several times faster: little is optimised, in one piece, and not by way of MLIR
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)

# Shapes that only happen to broadcast are errors. The strict dtype promotion of jax cannot be switched on for all
# tests, for optax's adam fails under it; tests that do not touch optax switch it on for themselves.
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config):
    """Quick tests compile quickly, for most of their programs run once; slow ones run long, and compile as usual.

    What one test, worker or process compiles, the others need not, nor does the next run: the cache is pytest's own.
    """
    if config.option.markexpr != "slow":
        os.environ.setdefault("XLA_FLAGS", QUICK)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(config.cache.mkdir("jax")))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@pytest.fixture
def x64():
    """The test runs in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session", autouse=True)
def unexamined():
    """Runs and reports do not measure the health of poses, which compiles four programs; but see `examined`."""
    sound = Health(0.0, 0.0, 0.1, 0.2, 0.05)
    with pytest.MonkeyPatch.context() as patch:
        for room in (watch, evaluate):
            patch.setattr(room, "health", lambda params, images: sound)
        yield


@pytest.fixture
def examined(monkeypatch):
    """The runs and reports of this test do measure it."""
    for room in (watch, evaluate):
        monkeypatch.setattr(room, "health", health)


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path_factory, monkeypatch):
    """Nothing that a test decodes goes into the cache of whoever runs it."""
    monkeypatch.setenv("AVAE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True, scope="module")
def programs_are_freed():
    """A process may have so many maps of memory and no more (65,530 on Linux), and each program of a CPU takes some."""
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 15_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def compiled():
    """Environment of the processes that tests start: they compile quickly, for longer than they run."""
    return {"XLA_FLAGS": QUICK}


@pytest.fixture(scope="session")
def images():
    """Three smooth asymmetric pictures [3, 12, 12, 1] in [0, 1]: a large and a small spot each, in different places."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:12, :12] - 5.5

    def spot(centre, width):
        return np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * width**2))

    pictures = [0.9 * spot(rng.uniform(-3, 3, 2), 1.8) + 0.6 * spot(rng.uniform(-3, 3, 2), 1.0) for _ in range(3)]
    return np.clip(pictures, 0, 1)[..., None].astype(np.float32)


@pytest.fixture(scope="session")
def params():
    """A small Bernoulli MLP of the pictures' shape; all its weights are drawn, so that J depends on the pose."""
    rng = np.random.default_rng(1)
    network = avae.MLP(image_shape=(12, 12, 1), hidden=(16,), latent=3)
    blank = jax.eval_shape(lambda key: avae.init(key, network), jax.random.key(0))
    return jax.tree.map(lambda leaf: rng.normal(0, 0.4, leaf.shape).astype(np.float32), blank)


@pytest.fixture(scope="session")
def finite_differences():
    """The function (f, at, h) -> Jacobian [*out, *at] of f by central differences."""

    def jacobian(f, at, h=1e-6):
        at = np.asarray(at)
        columns = []
        for index in range(at.size):
            step = np.zeros(at.size)
            step[index] = h
            step = step.reshape(at.shape)
            columns.append((np.asarray(f(at + step)) - np.asarray(f(at - step))) / (2 * h))
        return np.stack(columns, axis=-1).reshape(columns[0].shape + at.shape)

    return jacobian
