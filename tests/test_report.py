"""A tiny model and 24 digits through the whole evaluation: the report shows what results.json says."""

import dataclasses
import errno
import html
import io
import json
import pathlib
import re
import sys

import jax
import matplotlib.image
import numpy as np
import pytest

import avae
from avae import run as evaluation
from avae.config import Evaluation, default, experiment
from avae.data.dataset import Examples, load
from avae.evaluation import likelihood as comparison
from avae.evaluation.evaluate import Inputs, evaluate, measure
from avae.report import page as report, tables
from avae.runtime import devices
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


@pytest.fixture
def undrawn(monkeypatch):
    """Reports without figures, which take most of the time of writing one."""
    monkeypatch.setattr(report, "_figures", lambda *_: {})


def taken(images):
    """Images as the report measures them, so that the same programs serve."""
    return devices.take(images, np.arange(len(images)))


def shown_tables(page):
    """The rows of the tables of numbers in a page, as text."""
    body = page[page.index("<h1>") : page.index("Where the numbers come from")]
    cells = [
        re.findall(r"<t[hd]>(.*?)</t[hd]>", row, re.DOTALL) for row in re.findall(r"<tr>.*?</tr>", body, re.DOTALL)
    ]
    return [[html.unescape(re.sub(r"<[^>]*>", "", cell)).strip() for cell in row] for row in cells]


def test_every_number_in_the_report_and_on_the_terminal_is_that_of_results_json(written):
    workdir, results = written
    numbers = json.loads((workdir / "results.json").read_text())
    page = (workdir / "report.html").read_text()
    found = tables.tables(numbers)
    rows = [list(row) for table in found.values() for row in ((table.title, *table.header), *table.rows)]
    shown = shown_tables(page)
    assert len(shown) > 50
    assert sorted(shown) == sorted(rows)
    text = tables.as_text(results.numbers)
    assert text == tables.as_text(numbers)
    for row in rows:
        assert " ".join(filter(None, row)) in " ".join(text.split())
    for label, shown, unit in tables.tiles(numbers):
        tile = re.sub(r"<[^>]*>", "", page[page.index('<div class="tiles">') :])
        assert f"{shown} {unit}".strip() in " ".join(tile.split())
        assert label in tile


def test_cells_are_the_numbers_that_they_are_called(written):
    numbers = written[1].numbers
    found, loss = tables.tables(numbers), numbers["loss"]["plain_vae"]["no_search"]["at_mean"]
    rows = {row[0]: row[1:] for row in found["loss"].rows}
    assert rows["plain VAE, without search"][1] == f"{loss['mean']:.2f} ± {loss['standard_error']:.2f}"
    rows = {row[0]: row[1:] for row in found["curve"].rows}
    assert rows["AVAE, with search"][3] == f"{numbers['curve']['series']['avae_search']['range']:.2f}"
    assert tables.number(float("nan")) == tables.number(None) == tables.MISSING
    assert tables.mean({"mean": 1.0, "standard_error": None}) == "1.00"


def test_headline_is_the_paired_difference_of_the_means(written):
    numbers = written[1].numbers
    loss = numbers["loss"]
    difference = loss["plain_vae"]["no_search"]["sampled"]["mean"] - loss["avae"]["search"]["sampled"]["mean"]
    assert numbers["gain"]["mean"] == pytest.approx(difference, abs=1e-3)
    assert numbers["gain"]["same_size"]


def test_bounds_are_those_of_the_public_function(written):
    described, params, plain = small()
    test, numbers = load(described.data).test, written[1].numbers["bound"]
    x, key = taken(test.images), jax.random.fold_in(jax.random.key(1), 0)
    for name, model in (("avae", params), ("plain_vae", plain)):
        for way, method in (("search", "importance"), ("no_search", "iwae")):
            bound = avae.log_likelihood(devices.replicate(model), x, key=key, method=method, n_samples=8)
            shown = numbers[name][way]
            assert shown["mean"] == pytest.approx(float(bound.value.mean()), rel=1e-5)
            assert shown["effective_samples"] == pytest.approx(float(bound.effective_samples.mean()), rel=1e-3)
    difference = numbers["avae"]["search"]["mean"] - numbers["plain_vae"]["no_search"]["mean"]
    assert numbers["gain"]["mean"] == pytest.approx(difference, abs=1e-3)
    assert (numbers["n_images"], numbers["n_samples"]) == (24, 8)


def test_no_bound_where_it_is_not_asked_for_or_the_likelihood_is_none(written, undrawn, tmp_path):
    described, params, plain = small()
    images = load(described.data).test.images
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
    test = load(described.data).test
    numbers = written[1].numbers["loss"]["avae"]
    found = avae.align(devices.replicate(params), taken(test.images))
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
    upright = load(dataclasses.replace(described.data, pose="upright")).test.images
    floor = float(avae.align(devices.replicate(params), taken(upright)).loss.mean())
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
    drawn = ["averages", "grid", "loss_curve", "orientation", "posterior", "strips", "training"]
    assert names == [f"{name}.png" for name in drawn]
    for name in names:
        pixels = matplotlib.image.imread(io.BytesIO((workdir / "figures" / name).read_bytes()))[..., :3]
        assert pixels.shape[1] == 1280
        assert pixels.std() > 0.02


def test_page_is_self_contained(written):
    page = (written[0] / "report.html").read_text()
    assert "http:" not in page
    assert "https:" not in page
    assert page.count("data:image/png;base64,") == 8
    assert set(re.findall(r'(?:src|href)="([a-z]+):', page)) == {"data"}
    assert "mind &lt;this&gt;" in page
    assert "not a bound" in page
    assert "cross-entropy" in page
    assert "{" not in page[page.index("<body>") :]


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
    (row,) = (row for row in shown_tables(page) if row[0] == "AVAE, with search" and "±" in "".join(row))
    assert row[1].startswith(f"{tables.MISSING} ± ")
    assert "plain VAE" not in tables.as_text(results.numbers)


ODD = ["Ba$$in", "$\\frac{", "", " ", "a\nb\x00\x07", "<script>", "x" * 300, "שלום", "数据", "\udcff", "_", "%s{{ 1 }}"]


def relabelled(results, names):
    """The same results, where the first classes have other names."""
    numbers = json.loads(json.dumps(results.numbers))
    for entry, name in zip(numbers["orientation"]["classes"].values(), names, strict=False):
        entry["name"] = name
    return results._replace(numbers=numbers)


@pytest.mark.parametrize("names", [ODD[:6], ODD[6:]], ids=["first", "rest"])
def test_names_of_classes_are_any_text(written, tmp_path, capsys, names):
    results, folder = relabelled(written[1], names), tmp_path / "Ba$$in <run>"
    folder.mkdir()
    page = report.write(folder, results, small()[0], remarks=["\udcff"]).read_text()
    assert capsys.readouterr().err == ""
    assert "could not be drawn" not in page
    assert "<script>" not in page[page.index("<body>") :]
    assert "Ba$$in &lt;run&gt;" in page
    classes = json.loads((folder / "results.json").read_text())["orientation"]["classes"].values()
    assert [entry["name"] for entry in classes][:6] == names
    shown = [row[0] for row in tables.tables(results.numbers)["classes"].rows][:6]
    assert shown == [tables.caption(name) for name in names]
    assert [row[0] for row in shown_tables(page) if row[0] in shown] == shown
    assert all(0 < len(name) <= 40 and name.isprintable() for name in shown)


def test_a_figure_that_fails_is_named_and_costs_no_number(written, tmp_path, monkeypatch, capsys):
    def broken(*_):
        assert (tmp_path / "results.json").exists()  # before anything is drawn
        raise RuntimeError("no <ink>")

    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "grid.png").write_bytes(b"of an older report")
    monkeypatch.setattr(report.pictures, "grid", broken)
    page = report.write(tmp_path, written[1], small()[0]).read_text()
    assert "The figure could not be drawn: RuntimeError: no &lt;ink&gt;" in page
    assert "grid.png could not be drawn: RuntimeError: no <ink>" in capsys.readouterr().err
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {"averages.png", "loss_curve.png", "orientation.png", "posterior.png", "strips.png"}


def test_a_map_that_fails_says_so_on_the_page(written, undrawn, tmp_path, monkeypatch, capsys):
    def broken(*_):
        raise RuntimeError("no <ink>")

    monkeypatch.setattr(report.latent_map, "latent_map", broken)
    page = report.write(tmp_path, written[1], small()[0]).read_text()
    assert "The map of the latents could not be drawn: RuntimeError: no &lt;ink&gt;" in page
    assert "the map of the latents could not be drawn: RuntimeError: no <ink>" in capsys.readouterr().err
    assert "circle cx" not in page


def test_on_a_full_disk_old_files_stay_whole_and_the_numbers_are_still_seen(written, tmp_path, monkeypatch, capsys):
    def full(path, data):
        path.write_text("the first half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    (tmp_path / "results.json").write_text("{}")
    described, params, _ = small()
    monkeypatch.setattr(evaluation, "load", lambda folder, best=False, as_read=False: params)
    monkeypatch.setattr(evaluation.run_folder, "load_experiment", lambda folder, data=None: described)
    monkeypatch.setattr(evaluation.run_folder, "check_data", lambda folder, data: None)
    monkeypatch.setattr(evaluation, "evaluate", lambda *args, **kwargs: written[1])
    with pytest.raises(OSError, match="No space left"):
        evaluation.report(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    assert (tmp_path / "results.json").read_text() == "{}"
    assert tables.as_text(written[1].numbers) in capsys.readouterr().out


def test_numbers_are_printed_where_standard_output_is_ascii(written, undrawn, tmp_path, monkeypatch):
    described, params, _ = small()
    monkeypatch.setattr(evaluation, "load", lambda folder, best=False, as_read=False: params)
    monkeypatch.setattr(evaluation.run_folder, "load_experiment", lambda folder, data=None: described)
    monkeypatch.setattr(evaluation.run_folder, "check_data", lambda folder, data: None)
    monkeypatch.setattr(evaluation, "evaluate", lambda *args, **kwargs: relabelled(written[1], ["数据", "ü"]))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw := io.BytesIO(), encoding="ascii"))
    evaluation.report(tmp_path)
    printed = raw.getvalue().decode("ascii")
    gain = written[1].numbers["gain"]
    assert printed.startswith(f"{gain['mean']:.2f} +- {gain['standard_error']:.2f} nats below")
    assert "\n??  " in printed
    assert printed.endswith("report.html\n")


def measured(params, **changes):
    """The test digits measured again, changed."""
    data = small()[0].data
    test, upright = (load(dataclasses.replace(data, pose=pose)).test for pose in ("fixed", "upright"))
    test = test._replace(**changes)
    names = tuple(str(digit) for digit in range(10))
    return measure(params, Inputs(test, upright.images, upright.images[:3], data.transform, class_names=names), SIZES)


def test_losses_that_are_not_finite_are_counted_and_reported(written, tmp_path, capsys):
    described, params, _ = small()
    results = measured(jax.tree.map(lambda leaf: leaf * 1e30, params))
    page = report.write(tmp_path, results, described).read_text()
    assert "<strong>24 of the losses with search are not finite.</strong>" in page
    assert ("There is no map of the latents" in page) != ("circle cx" in page)
    assert "could not be drawn" not in page
    assert capsys.readouterr().err.count("not be drawn") == 0
    assert json.loads((tmp_path / "results.json").read_text())["search"]["not_finite"] == 24


def test_one_class_has_no_clusters_to_compare(written, tmp_path):
    described, params, _ = small()
    results = measured(params, labels=np.zeros(24, int))
    page = report.write(tmp_path, results, described).read_text()
    assert "Not measured: it needs more than one class." in page
    assert "could not be drawn" not in page
    assert ["accuracy of k-means", tables.MISSING] in shown_tables(page)


def test_the_posteriors_shown_are_those_of_the_public_function(written):
    described, params, _ = small()
    test, numbers = load(described.data).test, written[1].numbers["posterior"]
    x = taken(test.images)
    posterior = avae.pose_posterior(
        devices.replicate(params), x, key=jax.random.fold_in(jax.random.key(2), 0), n_samples=8
    )
    order = np.argsort(-np.asarray(posterior.entropy), kind="stable")[:8]
    assert [entry["index"] for entry in numbers["least_certain"]] == order.tolist()
    np.testing.assert_allclose(
        [entry["entropy"] for entry in numbers["least_certain"]], posterior.entropy[order], rtol=1e-4
    )
    np.testing.assert_allclose(written[1].uncertain.images, test.images[order])
    assert numbers["entropy"]["mean"] == pytest.approx(float(posterior.entropy.mean()), rel=1e-4)
    assert numbers["prior_entropy"] == pytest.approx(np.log(2 * np.pi))


SMALL = Evaluation(draws=1, n_exhaustive=6, n_angles=4, n_curve=2, curve_step=135, n_bound=0)


def test_one_image_of_two_channels(tmp_path):
    shape = (8, 8, 2)
    images = np.random.default_rng(0).random((1, *shape)).astype(np.float32)
    family = avae.QuarterTurns()
    inputs = Inputs(Examples(images, np.array([0]), np.zeros((1, 1))), images, images, family, class_names=("a",))
    model = avae.Model(avae.MLP(shape, 2, (4,)), transform=family)
    results = measure(avae.init(jax.random.key(0), model), inputs, SMALL)
    page = report.write(tmp_path, results, dataclasses.replace(small()[0], model=model)).read_text()
    assert "could not be drawn" not in page
    assert "in magenta" in page
    assert "±" not in tables.as_text(results.numbers)  # of one image there is no standard error


def test_posteriors_of_images_of_several_channels_are_drawn(written):
    images = np.random.default_rng(0).random((8, 28, 28, 5))
    for channels in (2, 5):
        figure = report.pose_figures.posterior_figure(images[..., :channels], written[1].uncertain.posterior)
        assert len(report.figures.png(figure)) > 10_000


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
    assert "{" not in page[page.index("<body>") :]


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
    assert "{" not in page[page.index("<body>") :]
    assert {"loss", "search", "speed"} <= set(tables.tables(results.numbers))


def test_eval_takes_the_baseline_beside_the_run(undrawn, tmp_path, capsys, monkeypatch):
    """eval.run compares with workdir/baseline, says where the two differ, prints the table and names the report."""
    described, params, plain = small()
    unsearched = dataclasses.replace(described.train, search=None)
    other = dataclasses.replace(described, train=unsearched, data=dataclasses.replace(described.data, seed=1))
    runs = {tmp_path: (params, described), tmp_path / "baseline": (plain, other)}
    (tmp_path / "baseline").mkdir()
    monkeypatch.setattr(evaluation, "load", lambda folder, best=False, as_read=False: runs[folder][0])
    monkeypatch.setattr(evaluation.run_folder, "load_experiment", lambda folder, data=None: runs[folder][1])
    path = evaluation.report(tmp_path)
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    assert printed.endswith(f"report: {path}\n")
    assert f"{results['gain']['mean']:.2f} ± " in printed
    assert "not a bound" in printed
    (remark,) = results["remarks"]
    assert "trained on different data" in remark
