"""What the benchmarks compute besides times: operations counted, exponents, rooflines; and how they are timed."""

import dataclasses
import importlib
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import avae
from avae.align import search_one
from avae.runtime import parts
from avae.runtime.parts import in_parts

FOLDER = pathlib.Path(__file__).parents[1] / "benchmarks"
SEARCH = avae.Search(n_starts=6, top_k=2, n_local=(2,), n_steps=3)


@pytest.fixture
def script(monkeypatch):
    """A script of benchmarks/ as a module, by name."""
    monkeypatch.setattr(sys, "path", [str(FOLDER), str(FOLDER / "machine"), *sys.path])
    return importlib.import_module


def test_variants_take_turns_and_the_first_round_does_not_count(script):
    calls = []
    seconds = script("protocol").in_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == ["a", "b"] * 3
    assert {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2}


def test_results_are_written_twice(script, tmp_path, capsys):
    script("protocol").save(tmp_path / "new", "speed", {"rows": [1]}, "# Speed\n")
    assert (tmp_path / "new" / "speed.json").read_text() == '{\n  "rows": [\n    1\n  ]\n}\n'
    assert (tmp_path / "new" / "speed.md").read_text() == "# Speed\n"
    assert "# Speed" in capsys.readouterr().out


def test_operations_of_a_product_are_known(script):
    count = script("counts").counted(lambda a, b: a @ b, jnp.ones((8, 32)), jnp.ones((32, 16)))
    assert count == {"flops": 2 * 8 * 32 * 16, "bytes": 4 * (8 * 32 + 32 * 16 + 8 * 16)}


def test_all_turns_of_all_loops_count(script, monkeypatch):
    """Every start and every step of refinement adds its share, however the search loops over them."""
    counts, x = script("counts"), jnp.ones((4, 32))
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(32, 32)), jnp.float32)
    loss = avae.CompositeLoss(
        predict=lambda x, alpha: weights @ (weights @ (x * jnp.cos(alpha))),
        score=lambda x, u: jnp.sum((u - x) ** 2),
        curvature=lambda x, u: jnp.full_like(u, 2.0),
    )
    pass_ = len(x) * 4 * 32**2

    def operations(**changes):
        def whole(search):
            def searched(x):
                starts = avae.Rotation().starts(search.n_starts)
                return in_parts(lambda x: search_one(loss, x, starts, avae.Rotation(), search), x)

            return counts.counted(searched, x)

        return counts.of_search(whole, dataclasses.replace(SEARCH, **changes))["flops"]

    base = operations()
    assert operations(n_starts=24) - base == pytest.approx(18 * pass_, rel=0.1)
    assert operations(n_steps=7) - base == pytest.approx(4 * SEARCH.n_refined * 2 * pass_, rel=0.1)  # 2: a tangent
    monkeypatch.setattr(parts, "CACHE", 1)  # as if nothing stayed in cache
    monkeypatch.setattr(parts, "NUMBERS", 1)
    assert operations() == base


def test_the_exponent_of_a_power(script):
    values = [8, 16, 64]
    assert script("scaling").exponent(values, [3 * value**1.5 for value in values]) == pytest.approx(1.5)


def test_cases_of_a_sweep_differ_in_one_thing(script):
    scaling = script("scaling")
    for changes, cases in scaling.SWEEPS.values():
        assert len({getattr(case, changes) for case in cases}) == len(cases)
        same = [name for name in ("starts", "batch", "side") if name != changes]
        assert len({tuple(getattr(case, name) for name in same) for case in cases}) == 1


def test_every_search_is_a_point_of_the_figure(script):
    row = {"mean_loss_nats": 110.0, "images_per_second": 100.0}
    names = ["avae forward", "avae.align default 48/3+4/2/3 GaussNewton", "PyTorch search 32/8/20 Adam"]
    rows = [row | {"name": name} for name in names]
    rows[1] = rows[1] | {"mean_loss_nats": 110.5}
    (ax,) = script("presets").draw([{"network": "mlp", "side": 28, "rows": rows}]).axes
    assert [line.get_xydata().tolist() for line in ax.lines] == [[[10.0, 0.5]], [[10.0, 0.0]]]
    assert [text.get_text() for text in ax.texts] == ["default", "PyTorch"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are read from /proc")
def test_a_peak_is_seen_after_it_is_over_and_forgotten(script):
    memory_of = script("memory_reference")
    before = memory_of.settle()
    ballast = np.ones(2**23)  # 64 MiB
    del ballast
    assert 60_000 < memory_of.kilobytes("VmHWM") - before < 90_000
    assert memory_of.settle() - before < 30_000


def test_the_roofline_is_the_lower_of_two_bounds(script):
    bound, peak = script("roofline").roofline, {"flops": 100.0, "bytes": 10.0}
    assert bound({"flops": 40.0, "bytes": 8.0}, peak) == 50.0
    assert bound({"flops": 400.0, "bytes": 8.0}, peak) == 100.0


@pytest.mark.slow
def test_stages_sum_to_the_search(script):
    """The coarse stage, looking around and refinement make the search; what XLA fuses across them is little."""
    roofline, counts = script("roofline"), script("counts")
    params = avae.init(jax.random.key(0), avae.MLP(image_shape=(12, 12, 1), hidden=(32,)))
    x = jnp.asarray(np.random.default_rng(0).random((2, 12, 12, 1), np.float32))
    counted = roofline.count_stages(params, x, SEARCH)
    stages = sum(counted[name]["flops"] for name in roofline.STAGES)
    search = counts.of_search(lambda search: counts.counted(lambda x: roofline.searched(params, x, search), x), SEARCH)
    assert stages == pytest.approx(search["flops"] / len(x), rel=0.15)
    assert counted["avae.align"]["flops"] > stages > SEARCH.n_starts * counted["forward pass"]["flops"]


# --- particles with known poses -------------------------------------------------------------------------------------


def test_particles_are_where_their_poses_say(script):
    """image = warp(object, Rigid().matrix(pose))."""
    particles = script("particles")
    stack = particles.Stack(n=4, side=64, snr=1e6, brightness=0.0)
    made = stack.make()
    objects = np.stack([particles.shown(stack, label, 0.0) for label in made.label])[..., None]
    matrices = jax.vmap(avae.Rigid().matrix)(jnp.asarray(made.pose, jnp.float32))
    moved = np.asarray(avae.warp(jnp.asarray(objects, jnp.float32), matrices))
    moved = (moved - moved.mean((1, 2, 3), keepdims=True)) / moved.std((1, 2, 3), keepdims=True)
    assert np.sqrt(np.mean((moved - made.images) ** 2)) < 0.05  # bilinear, beside a standard deviation of 1


def test_the_limit_of_particles_is_that_of_numerical_slopes(script):
    particles = script("particles")
    thing, angle, shift, eps = particles._object(np.random.default_rng(0)), 0.7, np.array([0.05, -0.02]), 1e-5
    view = lambda turn, x, y: particles._view(*thing, angle + turn, np.add(shift, (x, y)), False, 32)[0]  # noqa: E731
    picture, slopes = particles._view(*thing, angle, shift, False, 32)
    steps = eps * np.eye(3)
    numerical = [(view(*step) - view(*-step)) / (2 * eps) for step in steps]
    np.testing.assert_allclose(slopes, numerical, atol=1e-6)
    columns = np.stack([*numerical, picture, np.ones_like(picture)]).reshape(5, -1)
    expected = 0.3 * np.sqrt(np.linalg.inv(columns @ columns.T)[0, 0])
    np.testing.assert_allclose(particles._limit(picture, slopes, 0.3), expected, rtol=1e-5)


def test_rivals_and_true_objects_find_the_poses_of_clear_particles(script):
    noise, particles, drift = (script(name) for name in ("noise", "particles", "drift"))
    stack = particles.Stack(n=40, side=32, snr=20.0, brightness=0.0, shift=0.0)
    made = stack.make()
    angle, label = noise.oracle(made.images, stack)
    np.testing.assert_array_equal(label, made.label)
    for found, limit in ((angle, 1), (noise.moments(made.images), 4), (noise.phase_correlation(made.images), 10)):
        pull = np.concatenate([found[:, None], np.zeros((40, 2))], axis=1)
        net = drift.metrics.net_rotation(avae.Rigid(), pull, made.pose)
        assert np.median(drift.metrics.rotation_errors(net, made.label)) < limit


@pytest.mark.slow  # trains and aligns, half a minute
def test_a_model_is_judged_by_true_poses(script):
    """One that knows nothing is as wrong as chance; one step of training runs."""
    drift = script("drift")
    task = drift.particles(0, 128)
    task = task._replace(test=task.test[:24], pose=task.pose[:24], label=task.label[:24])
    params, steps = drift.trained(task, 1, {"batch_size": 128})
    assert steps == 1
    found = drift.judged(task, params)
    assert 5 < found["median"] < 180
    assert 0 <= found["cover_90"] <= 1
