"""A tiny model and 24 digits through the whole evaluation: the report shows what results.json says."""

import dataclasses
import io
import json
import re

import jax
import matplotlib.image
import numpy as np
import pytest

import avae
import eval as evaluation
from avae.config import Evaluation, default, experiment
from avae.data.dataset import Examples, load
from avae.evaluation import likelihood as comparison
from avae.evaluation.evaluate import Inputs, evaluate, measure
from avae.report import page as report, tables
from avae.transforms import CubeRotations, Rigid3D

# One batch shape and one search for all that is measured, so that `align` is compiled once.
SIZES = Evaluation(draws=2, n_exhaustive=24, n_angles=8, n_curve=3, curve_step=45, n_bound=24, bound_samples=8)
SEARCH = avae.Search(n_starts=8, top_k=4, n_refined=4, n_steps=10)


def small(transform=None):
    """An experiment of the default shape with 24 test digits and little work, and two sets of random weights."""
    described = experiment(default())
    model = dataclasses.replace(
        described.model,
        networks=avae.MLP(hidden=(16,), latent=3),
        transform=transform or avae.Rotation(),
        search=SEARCH,
    )
    data = dataclasses.replace(described.data, n_test=24, n_train=24)
    described = dataclasses.replace(described, model=model, data=data, evaluation=SIZES)
    return described, *(avae.init(jax.random.key(seed), model) for seed in range(2))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(folder, results) of a report with a baseline."""
    workdir = tmp_path_factory.mktemp("run")
    described, params, plain = small()
    (workdir / "metrics.jsonl").write_text('{"step": 1, "loss": 9.5}\n{"step": 2, "loss": 8.5}\n{"step": 3, "lo')
    results = evaluate(params, described.data, described.evaluation, baseline=plain)
    report.write(workdir, results, described, remarks=["mind <this>"])
    return workdir, results


def shown_numbers(page):
    return re.findall(r'<span data-key="([^"]+)" data-format="([^"]+)">([^<]*)</span>', page)


def test_every_number_in_the_report_is_that_of_results_json(written):
    workdir, _ = written
    numbers = json.loads((workdir / "results.json").read_text())
    page = (workdir / "report.html").read_text()
    shown = shown_numbers(page)
    assert len(shown) > 60
    for path, spec, text in shown:
        assert format(tables.find(numbers, path), spec) == text, path


def test_cells_hold_marked_numbers_only(written):
    page = (written[0] / "report.html").read_text()
    body = page[: page.index("Where the numbers come from")]
    rows = re.findall(r"<tr><td>.*?</td>(.*?)</tr>", body)
    unmarked = re.sub(r"<[^>]*>", "", re.sub(r"<span data-key[^>]*>[^<]*</span>", "", "".join(rows)))
    assert set(unmarked) <= set("± ")


def test_headline_is_the_paired_difference_of_the_means(written):
    numbers = written[1].numbers
    loss = numbers["loss"]
    difference = loss["plain_vae"]["no_search"]["sampled"]["mean"] - loss["avae"]["search"]["sampled"]["mean"]
    assert numbers["gain"]["mean"] == pytest.approx(difference, abs=1e-3)
    assert numbers["gain"]["same_size"]


def test_bounds_are_those_of_the_public_function(written):
    described, params, plain = small()
    test, numbers = avae.data.load(described.data).test, written[1].numbers["bound"]
    key = jax.random.fold_in(jax.random.key(1), 0)
    for name, model in (("avae", params), ("plain_vae", plain)):
        for way, method in (("search", "importance"), ("no_search", "iwae")):
            bound = avae.log_likelihood(model, test.images, key=key, method=method, n_samples=8)
            shown = numbers[name][way]
            assert shown["mean"] == pytest.approx(float(bound.value.mean()), rel=1e-5)
            assert shown["effective_samples"] == pytest.approx(float(bound.effective_samples.mean()), rel=1e-3)
    difference = numbers["avae"]["search"]["mean"] - numbers["plain_vae"]["no_search"]["mean"]
    assert numbers["gain"]["mean"] == pytest.approx(difference, abs=1e-3)
    assert (numbers["n_images"], numbers["n_samples"]) == (24, 8)


def test_no_bound_where_it_is_not_asked_for_or_the_likelihood_is_none(written, tmp_path):
    described, params, plain = small()
    images = avae.data.load(described.data).test.images
    none = dataclasses.replace(SIZES, n_bound=0)
    assert comparison.bounds({"avae": params}, images, none) is None
    odd = params.replace(model=dataclasses.replace(params.model, likelihood=Unnormalised()))
    assert comparison.bounds({"avae": odd, "plain_vae": plain}, images, SIZES) is None
    results = written[1]
    numbers = results.numbers | {"bound": None}
    page = report.write(tmp_path, results._replace(numbers=numbers), described).read_text()
    assert "Lower bound" not in page
    assert "Lower bound" not in tables.as_text(numbers)


@dataclasses.dataclass(frozen=True)
class Unnormalised(avae.Bernoulli):
    """Half of the log likelihood: no likelihood."""

    def log_prob(self, weights, x, mean):
        return 0.5 * super().log_prob(weights, x, mean)


def test_losses_are_those_of_the_public_functions(written):
    described, params, _ = small()
    test = avae.data.load(described.data).test
    numbers = written[1].numbers["loss"]["avae"]
    found = avae.align(params, test.images)
    assert numbers["search"]["at_mean"]["mean"] == pytest.approx(float(found.loss.mean()), rel=1e-5)
    plain = avae.objective(params, test.images).total
    assert numbers["no_search"]["at_mean"]["mean"] == pytest.approx(float(plain.mean()), rel=1e-5)
    error = float(np.std(plain, ddof=1)) / np.sqrt(24)
    assert numbers["no_search"]["at_mean"]["standard_error"] == pytest.approx(error, rel=1e-4)
    squared = np.sum((test.images - found.reconstruction) ** 2, axis=(1, 2, 3)).mean()
    assert numbers["search"]["squared_error"]["mean"] == pytest.approx(float(squared), rel=1e-4)
    mean = jax.vmap(lambda x: params.model.decode(params.weights, params.model.encode(params.weights, x).mu))(
        test.images
    )
    squared = np.sum((test.images - mean) ** 2, axis=(1, 2, 3)).mean()
    assert numbers["no_search"]["squared_error"]["mean"] == pytest.approx(float(squared), rel=1e-4)


def test_excess_is_above_the_same_images_upright(written):
    described, params, _ = small()
    upright = avae.data.load(dataclasses.replace(described.data, pose="upright")).test.images
    floor = float(avae.align(params, upright).loss.mean())
    loss = written[1].numbers["loss"]["avae"]
    assert loss["upright"]["search"]["mean"] == pytest.approx(floor, rel=1e-5)
    plain = float(avae.objective(params, upright).total.mean())
    assert loss["upright"]["no_search"]["mean"] == pytest.approx(plain, rel=1e-5)
    for way in ("no_search", "search"):
        assert loss["excess"][way]["mean"] == pytest.approx(loss[way]["at_mean"]["mean"] - floor, abs=1e-3)
    ratio = loss["excess"]["search"]["mean"] / loss["excess"]["no_search"]["mean"]
    assert loss["excess"]["ratio"] == pytest.approx(ratio)


def test_curve_ranges_leave_out_right_angles(written):
    curve = written[1].numbers["curve"]
    assert curve["angles"] == list(range(0, 360, 45))
    series = curve["series"]["avae_search"]
    odd = series["loss"][1::2]
    assert series["range"] == pytest.approx(max(odd) - min(odd))
    assert series["worst_harm"] <= 0.01


def test_exhaustive_search_of_the_same_starts_is_the_same_search(written):
    search = written[1].numbers["search"]
    assert search["gap"] == {"mean": 0.0, "standard_error": 0.0}
    assert search["n_images"] == 24
    assert search["not_finite"] == 0


def test_pngs_are_not_blank(written):
    workdir, _ = written
    names = sorted(path.name for path in (workdir / "figures").iterdir())
    assert names == ["grid.png", "loss_curve.png", "orientation.png", "training.png"]
    for name in names:
        pixels = matplotlib.image.imread(io.BytesIO((workdir / "figures" / name).read_bytes()))[..., :3]
        assert pixels.shape[1] == 1280
        assert pixels.std() > 0.02


def test_page_is_self_contained(written):
    page = (written[0] / "report.html").read_text()
    assert "http:" not in page
    assert "https:" not in page
    assert page.count("data:image/png;base64,") == 4
    assert set(re.findall(r'(?:src|href)="([a-z]+):', page)) == {"data"}
    assert "mind &lt;this&gt;" in page
    assert "not a bound" in page
    assert "cross-entropy" in page
    assert "$" not in re.sub(r"base64,[^\"]*", "", page)


def test_without_baseline_in_another_family_and_with_values_that_are_not_finite(tmp_path):
    described, params, _ = small(avae.Rigid())
    results = evaluate(params, described.data, dataclasses.replace(SIZES, n_curve=6, curve_step=90, n_bound=0))
    results.numbers["loss"]["avae"]["search"]["sampled"]["mean"] = float("nan")
    path = report.write(tmp_path, results, described)
    numbers = json.loads((tmp_path / "results.json").read_text())
    assert numbers["gain"] is None
    assert numbers["curve"]["series"]["avae_search"]["range"] is None
    assert numbers["loss"]["avae"]["search"]["sampled"]["mean"] is None
    assert numbers["config"]["model"]["transform"]["type"] == "Rigid"
    page = path.read_text()
    assert not (tmp_path / "figures" / "training.png").exists()
    assert ("loss.avae.search.sampled.mean", ".2f", tables.MISSING) in shown_numbers(page)
    assert "plain VAE" not in tables.as_text(results.numbers)


SMALL = Evaluation(draws=1, n_exhaustive=6, n_angles=4, n_curve=2, curve_step=135, n_bound=0)


def test_volumes_in_a_finite_family(tmp_path):
    """Numbers of orientations without the half turn, words of volumes, and a figure of slices."""
    searched, posed = CubeRotations(), Rigid3D()
    rng = np.random.default_rng(0)
    volumes = rng.random((6, 8, 8, 8, 1)).astype(np.float32)
    poses = np.asarray(jax.vmap(posed.sample)(jax.random.split(jax.random.key(0), 6)))
    inputs = Inputs(
        Examples(volumes, np.array([0, 0, 2, 2, 2, 1]), poses),
        volumes,
        volumes[:2],
        posed,
        class_names=("a", "b.c", "d"),
    )
    search = avae.Search(n_starts=4, top_k=4, n_refined=4, n_steps=10)  # that of the exhaustive search: compiled once
    described = small()[0]
    model = avae.Model(avae.MLP((8, 8, 8, 1), 2, (4,)), transform=searched, search=search)
    described = dataclasses.replace(described, model=model)
    params = avae.init(jax.random.key(0), model)
    results = measure(params, inputs, SMALL, baseline=params)
    path = report.write(tmp_path, results, described)
    orientation = results.numbers["orientation"]
    assert orientation["error_modulo_180"] is None
    assert [entry["name"] for entry in orientation["classes"].values()] == ["a", "b.c", "d"]
    assert results.numbers["curve"]["angles"] == [0, 135, 270]
    assert results.numbers["speed"]["batch"] == 6
    assert results.numbers["search"]["n_angles"] == 24
    assert (tmp_path / "figures" / "slices.png").exists()
    page = path.read_text()
    assert "about the z axis" in page
    assert "modulo" not in page
    assert not re.search(
        r"\b(digits?|images?|pixels?)\b", re.sub(r"<[^>]*>", "", page[page.index("<h1>") : page.index("Where")])
    )
    assert "b.c" in page
    assert "$" not in re.sub(r"base64,[^\"]*", "", page)


def test_without_labels_what_needs_them_is_left_out_and_that_is_said(tmp_path):
    described, params, _ = small()
    np.save(tmp_path / "stack.npy", load(dataclasses.replace(described.data, n_test=25)).test.images)
    data = dataclasses.replace(described.data, name=str(tmp_path / "stack.npy"), n_train=1, n_test=24)
    results = evaluate(params, data, dataclasses.replace(SIZES, n_bound=0))
    page = report.write(tmp_path, results, described).read_text()
    text = tables.as_text(results.numbers)
    assert results.numbers["orientation"]["mean_resultant"] is None
    assert results.numbers["clusters"]["accuracy"] is None
    for absent in ("resultant", "Rotation error, degrees", "accuracy of k-means"):
        assert absent not in text
        assert f"<td>{absent}" not in page
        assert f"<th>{absent}" not in page
    assert text.count("not measured, for the data have no labels") == 1
    assert page.lower().count("not measured, for the data have no labels") == 2
    assert "$" not in re.sub(r"base64,[^\"]*", "", page)
    assert {"loss", "search", "speed"} <= set(tables.tables(results.numbers))


def test_eval_takes_the_baseline_beside_the_run(tmp_path, capsys, monkeypatch):
    """eval.run compares with workdir/baseline, says where the two differ, prints the table and names the report."""
    described, params, plain = small()
    unsearched = dataclasses.replace(described.train, search=None)
    other = dataclasses.replace(described, train=unsearched, data=dataclasses.replace(described.data, seed=1))
    runs = {tmp_path: (params, described), tmp_path / "baseline": (plain, other)}
    (tmp_path / "baseline").mkdir()
    monkeypatch.setattr(evaluation, "load", lambda folder, best=False: runs[folder][0])
    monkeypatch.setattr(evaluation, "load_experiment", lambda folder: runs[folder][1])
    path = evaluation.run(tmp_path)
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    assert printed.endswith(f"report: {path}\n")
    assert f"{results['gain']['mean']:.2f} ± " in printed
    assert "not a bound" in printed
    (remark,) = results["remarks"]
    assert "trained on different data" in remark
