"""A data set aligned into a folder: tables, aligned images, averages, and what other tools make of them."""

import csv
import json
import os
import pathlib

import mrcfile
import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage
from template import picture, turned

import avae
from avae import cli
from avae.data import dataset as data, known, sources
from avae.evaluation.averages import averages, clusters
from avae.poses import folder, stream, table
from avae.training import loop, run_folder
from avae.training.checkpoint import Checkpoints
from avae.training.step import init_state

N = 30
DEGREES = np.random.default_rng(0).uniform(0, 360, N)
IMAGES = turned(picture(), DEGREES)[..., 0].astype(np.float32)
SHORT = ["--epochs=1", "--latent=2", "--batch-size=8", "--set", "model.hidden=(16,)", "--set", "train.warmup_steps=1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run by the command line, and its data."""
    path = tmp_path_factory.mktemp("cli")
    np.savez(path / "stack.npz", images=40 + 10 * IMAGES, labels=np.array(["b", "a", "ç"] * 10))
    cli.main(["train", str(path / "stack.npz"), "--out", str(path / "run"), *SHORT])
    return path


@pytest.fixture(scope="module")
def poses(run):
    """The same data aligned, six images at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "at_once", lambda shape: 7)
        cli.main(["align", str(run / "run"), str(run / "stack.npz"), "--out", str(run / "poses")])
    return run / "poses"


def rows_of(path):
    with (path / "poses.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def content(path):
    return {name: (path / name).read_bytes() for name in ("poses.csv", "aligned.npy", "averages.png", "index.html")}


def test_the_table_has_the_pose_in_degrees_pixels_and_as_a_pull_map(run, poses):
    rows, params = rows_of(poses), avae.load(run / "run")
    found = avae.align(params, np.load(run / "stack.npz")["images"][..., None])
    assert [row["row"] for row in rows] == [str(k) for k in range(N)]
    assert [row["label"] for row in rows] == ["b", "a", "ç"] * 10
    for k, row in enumerate(rows):
        np.testing.assert_allclose(float(row["angle_deg"]), np.degrees(found.alpha[k, 0]), atol=0.05)
        shift = [float(row["shift_x_px"]), float(row["shift_y_px"])]
        np.testing.assert_allclose(shift, found.alpha[k, 1:] * IMAGES.shape[1] / 2, atol=0.05)
        np.testing.assert_allclose(float(row["loss"]), found.loss[k], rtol=1e-3)
        np.testing.assert_allclose(float(row["std_angle_deg"]), np.degrees(found.std[k, 0]), rtol=0.1)
        assert (row["scale"], row["mirrored"], row["finite"]) == ("1", "0", "1")
    arrays = table.read(poses)
    np.testing.assert_allclose(arrays["alpha"], found.alpha, atol=1e-3)
    assert arrays["latent"].shape == (N, 2)
    assert "half-widths" in (poses / "columns.txt").read_text()


def test_the_table_names_the_files_of_a_folder(run, tmp_path, capsys):
    names = [b"c/plain.png", 'a/quoted "one", Köln.png'.encode(), b"a/not \xff UTF-8.png", b"b/z.png"]
    for k, name in enumerate(names):
        path = pathlib.Path(os.fsdecode(os.fsencode(tmp_path / "data") + b"/" + name))
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((255 * IMAGES[k]).astype(np.uint8)).save(path)
    cli.main(["align", str(run / "run"), str(tmp_path / "data"), "--out", str(tmp_path / "poses")])
    capsys.readouterr().out.encode("ascii")
    with (tmp_path / "poses" / "poses.csv").open(encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    assert [os.fsencode(row["file"]) for row in rows] == sorted(names)
    assert [row["label"] for row in rows] == ["a", "a", "b", "c"]
    assert table.read(tmp_path / "poses")["files"].tolist() == [row["file"] for row in rows]
    raw = sources.read(str(tmp_path / "data"), dim=2, n_train=3, n_test=1)
    assert len(raw.train_images) == 3


def test_the_table_names_the_particles_of_a_star(run, tmp_path):
    mrcfile.write(tmp_path / "stack.mrcs", IMAGES[:3])
    lines = ["data_", "loop_", "_rlnImageName #1", "000002@stack.mrcs", "000001@stack.mrcs", "000003@stack.mrcs"]
    (tmp_path / "x.star").write_text("\n".join(lines) + "\n")
    folder.align_source(run / "run", str(tmp_path / "x.star"), tmp_path / "poses")
    assert [row["file"] for row in rows_of(tmp_path / "poses")] == lines[3:]


def test_aligned_images_have_the_values_and_dtype_of_the_data(run, poses):
    aligned, matrix = np.load(poses / "aligned.npy")[..., None], table.read(poses)["matrix"]
    stored = np.load(run / "stack.npz")["images"]
    assert (aligned.dtype, aligned.shape[:-1]) == (stored.dtype, stored.shape)
    expected = avae.warp(stored[..., None] - 40, matrix) + 40
    np.testing.assert_allclose(aligned, expected, atol=0.05)


def test_averages_are_of_labels_and_the_page_shows_them(run, poses):
    groups = np.load(poses / "averages.npz")
    np.testing.assert_array_equal(groups["count"], [10, 10, 10])
    np.testing.assert_array_equal(groups["group"], [1, 0, 2] * 10)
    aligned = np.load(poses / "aligned.npy")[..., None]
    np.testing.assert_allclose(groups["aligned"][1], aligned[::3].mean(axis=0), rtol=1e-5)
    page = (poses / "index.html").read_text()
    assert page.count("data:image/png") == 3
    assert "http" not in page


def test_a_job_that_was_stopped_writes_what_an_undisturbed_one_writes(run, poses, monkeypatch, tmp_path):
    monkeypatch.setattr(stream, "at_once", lambda shape: 7)
    out, batch, calls = tmp_path / "poses", stream._batch, []

    def stops(*args):
        calls.append(args)
        if len(calls) % 2:
            raise KeyboardInterrupt
        batch(*args)

    monkeypatch.setattr(stream, "_batch", stops)
    for _ in range(5):
        with pytest.raises(KeyboardInterrupt):
            folder.align_source(run / "run", str(run / "stack.npz"), out)
    monkeypatch.setattr(stream, "_batch", batch)
    folder.align_source(run / "run", str(run / "stack.npz"), out)
    assert content(out) == content(poses)


def test_a_folder_belongs_to_one_job(run, poses, tmp_path):
    np.save(tmp_path / "other.npy", 40 + 10 * IMAGES[:9])
    with pytest.raises(avae.Mistake, match=r"holds other results .*images: 30 there, 9 here"):
        folder.align_source(run / "run", str(tmp_path / "other.npy"), poses)
    with run_folder.held(poses), pytest.raises(avae.Mistake, match=r"process \d+ on .* is at work in this folder"):
        folder.align_source(run / "run", str(run / "stack.npz"), poses)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    with pytest.raises(avae.Mistake, match="expected a new or empty folder"):
        folder.align_source(run / "run", str(tmp_path / "other.npy"), tmp_path / "full")
    np.save(tmp_path / "small.npy", IMAGES[:, :8])
    with pytest.raises(avae.Mistake, match=r"expected examples \(20, 20, 1\).* got \(8, 20, 1\)"):
        folder.align_source(run / "run", str(tmp_path / "small.npy"), tmp_path / "new")


def test_unreadable_rows_stay_in_their_place_and_are_named(run, tmp_path, capsys):
    images = 40 + 10 * IMAGES[:5]
    images[2, 3, 3] = np.nan
    np.save(tmp_path / "holes.npy", images)
    folder.align_source(run / "run", str(tmp_path / "holes.npy"), tmp_path / "poses")
    assert "1 of 5 images cannot be aligned, their rows are empty: 2" in capsys.readouterr().err
    rows = rows_of(tmp_path / "poses")
    assert [row["finite"] for row in rows] == ["1", "1", "0", "1", "1"]
    assert rows[2]["angle_deg"] == rows[2]["loss"] == "nan"
    np.testing.assert_array_equal(np.load(tmp_path / "poses" / "aligned.npy")[2], images[2])
    images[:] = np.nan
    np.save(tmp_path / "none.npy", images)
    with pytest.raises(avae.Mistake, match="got none in any of the 5 images"):
        folder.align_source(run / "run", str(tmp_path / "none.npy"), tmp_path / "nothing")


def test_a_split_is_aligned_as_one_stack_training_images_first(run, tmp_path):
    images = 40 + 10 * IMAGES[:8]
    np.savez(tmp_path / "split.npz", train_images=images[:5], test_images=images[5:])
    folder.align_source(run / "run", str(tmp_path / "split.npz"), tmp_path / "poses")
    matrix, aligned = table.read(tmp_path / "poses")["matrix"], np.load(tmp_path / "poses" / "aligned.npy")
    np.testing.assert_allclose(aligned, avae.warp(images[..., None] - 40, matrix)[..., 0] + 40, atol=0.05)


def test_masks_move_with_their_images(run, poses, tmp_path):
    masks = IMAGES > 0.3
    np.save(tmp_path / "masks.npy", masks)
    folder.align_source(run / "run", str(run / "stack.npz"), poses, also=[str(tmp_path / "masks.npy")])
    moved = np.load(poses / "aligned_masks.npy")
    expected = avae.warp(masks[..., None], table.read(poses)["matrix"], order=0)[..., 0]
    np.testing.assert_array_equal(moved, expected)
    np.save(tmp_path / "few.npy", masks[:5])
    with pytest.raises(avae.Mistake, match=r"--also: expected 30 examples of \(20, 20\), .* got \(5, 20, 20\)"):
        folder.align_source(run / "run", str(run / "stack.npz"), poses, also=[str(tmp_path / "few.npy")])


@pytest.fixture
def mrcs(run, tmp_path):
    """A stack of particles with a sample spacing, aligned by the run's poses of other files of its values."""
    images = 40 + 10 * IMAGES[:6]
    np.save(tmp_path / "six.npy", images)
    folder.align_source(run / "run", str(tmp_path / "six.npy"), tmp_path / "poses")
    return images, tmp_path


def test_itk_applies_our_transforms(mrcs):
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is in the extra `test`")
    images, path = mrcs
    cli.main(["export", str(path / "poses"), "--to", "itk"])
    aligned = np.load(path / "poses" / "aligned.npy")
    for k in range(6):
        transform = sitk.ReadTransform(str(path / "poses" / "itk" / f"{k:06d}.tfm"))
        theirs = sitk.Resample(sitk.GetImageFromArray(images[k]), transform, sitk.sitkLinear, 40.0)
        inner = (slice(4, -4), slice(4, -4))
        np.testing.assert_allclose(sitk.GetArrayFromImage(theirs)[inner], aligned[k][inner], atol=0.2)


def test_relions_table_says_how_to_shift_and_turn(mrcs):
    starfile = pytest.importorskip("starfile", reason="starfile is in the extra `test`")
    images, path = mrcs
    cli.main(["export", str(path / "poses"), "--to", "star", "--out", str(path / "out.star")])
    tables = starfile.read(path / "out.star")
    particles, aligned = tables["particles"], np.load(path / "poses" / "aligned.npy")
    assert list(particles["rlnImageName"])[2].startswith("000003@")
    assert tables["optics"]["rlnImageSize"][0] == 20
    for k, row in particles.iterrows():  # a point q of the image comes to R(psi) (q + origin), from pixel size // 2
        psi = np.radians(row["rlnAnglePsi"])
        turn = np.array([[np.cos(psi), -np.sin(psi)], [np.sin(psi), np.cos(psi)]])
        pull = turn.T[::-1, ::-1]  # rows first
        origin = np.array([row["rlnOriginY"], row["rlnOriginX"]])
        theirs = ndimage.affine_transform(
            images[k], pull, 10 - origin - pull @ [10, 10], order=1, mode="grid-constant", cval=40
        )
        inner = (slice(4, -4), slice(4, -4))
        np.testing.assert_allclose(theirs[inner], aligned[k][inner], atol=0.2)


def test_relions_poses_come_back_as_ours(mrcs):
    """Through our own table, whose convention the test above proves; in angstroms as well; and as starts."""
    pytest.importorskip("starfile", reason="starfile is in the extra `test`")
    images, path = mrcs
    mrcfile.write(path / "six.mrcs", images, voxel_size=1.5)
    found = table.read(path / "poses") | {"source": np.array(str(path / "six.mrcs"))}
    np.savez(path / "poses" / "poses.npz", **found)
    cli.main(["export", str(path / "poses"), "--to", "star", "--out", str(path / "six.star")])
    assert "rlnOriginXAngst" in (path / "six.star").read_text()
    space = images.shape[1:]
    np.testing.assert_allclose(
        known.read("star", str(path / "six.star"), avae.Rigid(), space), found["alpha"], atol=1e-5
    )
    mirrored = known.read(str(path / "six.star"), "", avae.Mirrored(avae.Affine()), space)
    matrix = np.stack([avae.Mirrored(avae.Affine()).matrix(alpha) for alpha in mirrored])
    np.testing.assert_allclose(matrix, found["matrix"], atol=1e-5)
    turned_only = known.read("star", str(path / "six.star"), avae.Rotation(), space)
    np.testing.assert_allclose(turned_only[:, 0], found["alpha"][:, 0], atol=1e-5)
    np.testing.assert_array_equal(known.read(str(path / "poses"), "", avae.Rigid(), space), found["alpha"])
    with pytest.raises(avae.Mistake, match="expected poses of Rotation"):
        known.read(str(path / "poses"), "", avae.Rotation(), space)
    with pytest.raises(avae.Mistake, match=r"expected data in a .star, for it holds poses"):
        known.read("star", str(path / "six.mrcs"), avae.Rigid(), space)


def test_a_star_is_aligned_near_its_own_poses(run, mrcs, capsys):
    images, path = mrcs
    mrcfile.write(path / "six.mrcs", images)
    psi = [170.0, -90, 45, 0, 10, 100]
    lines = ["data_", "loop_", "_rlnImageName #1", "_rlnAnglePsi #2"]
    lines += [f"{k + 1}@six.mrcs {angle}" for k, angle in enumerate(psi)]
    (path / "six.star").write_text("\n".join(lines) + "\n")
    argv = ["align", str(run / "run"), str(path / "six.star"), "--out", str(path / "near")]
    cli.main([*argv, "--around=star", "--within=0.05"])
    off = np.angle(np.exp(1j * (table.read(path / "near")["alpha"][:, 0] + np.radians(psi))))
    assert np.abs(off).max() < 0.7
    with pytest.raises(SystemExit):
        cli.main(argv)
    assert "holds other results (around: " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main([*argv, "--within=0.1"])
    assert "--within: expected --around POSES beside it" in capsys.readouterr().err


def test_training_begins_near_the_poses_of_a_star(tmp_path, monkeypatch):
    mrcfile.write(tmp_path / "all.mrcs", IMAGES)
    lines = ["data_", "loop_", "_rlnImageName #1", "_rlnAnglePsi #2"]
    lines += [f"{k + 1}@all.mrcs {-angle:.4f}" for k, angle in enumerate(DEGREES)]
    (tmp_path / "all.star").write_text("\n".join(lines) + "\n")
    seen, real = [], loop._known
    monkeypatch.setattr(loop, "_known", lambda *args: seen.append(real(*args)) or seen[0])
    out = tmp_path / "run"
    cli.main(["train", str(tmp_path / "all.star"), "--out", str(out), "--poses=star", "--transform=rotation", *SHORT])
    described = run_folder.load_experiment(out)
    rows = data.load(described.data).rows
    off = np.angle(np.exp(1j * (seen[0][:, 0] - np.radians(DEGREES[rows]))))
    np.testing.assert_allclose(off, 0, atol=1e-4)
    with Checkpoints(out) as checkpoints:
        kept = np.asarray(checkpoints.restore(init_state(described)).poses)[:, 0]
    moved = np.abs(np.angle(np.exp(1j * (kept - seen[0][:, 0]))))
    assert moved.min() < 1e-6  # the epoch's last images were in no batch: they are where they began
    assert moved.max() > 1e-3


def test_poses_that_relion_does_not_know_are_refused(mrcs, capsys):
    _, path = mrcs
    found = table.read(path / "poses")
    found["matrix"][:, 0, 0] *= 1.5
    np.savez(path / "poses" / "poses.npz", **found)
    with pytest.raises(SystemExit):
        cli.main(["export", str(path / "poses"), "--to", "star"])
    assert "expected turns and shifts of images" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["mrcs", "tif"])
def test_aligned_images_in_the_format_of_the_data(kind, run, tmp_path):
    images = (40 + 10 * IMAGES[:9]).astype(np.float32 if kind == "mrcs" else np.uint16)
    path = tmp_path / f"stack.{kind}"
    if kind == "mrcs":
        with mrcfile.new(path) as file:
            file.set_data(images)
            file.set_image_stack()
            file.voxel_size = 1.5
    else:
        tifffile.imwrite(path, images, photometric="minisblack")
    folder.align_source(run / "run", str(path), tmp_path / "poses")
    aligned = tmp_path / "poses" / f"aligned.{kind}"
    matrix = table.read(tmp_path / "poses")["matrix"]
    if kind == "mrcs":
        with mrcfile.open(aligned) as file:
            assert file.voxel_size.x == 1.5
            assert file.is_image_stack()
            stored = file.data.copy()
    else:
        stored = tifffile.imread(aligned)
        assert stored.dtype == np.uint16
    assert stored.shape == images.shape
    expected = avae.warp(images[..., None].astype(np.float32), matrix)[..., 0]
    np.testing.assert_allclose(stored[:, 6:14, 6:14], expected[:, 6:14, 6:14], atol=0.6)


def test_clusters_are_found_and_counted():
    rng = np.random.default_rng(0)
    latent = np.concatenate([rng.normal(centre, 0.1, (n, 3)) for centre, n in ((0, 20), (3, 50), (-3, 30))])
    finite = np.ones(100, bool)
    finite[0] = False
    group = clusters(latent, finite)
    assert group[0] == -1
    assert (group[20:70] == 0).all()
    assert (group[70:] == 1).all()
    assert (group[1:20] == 2).all()
    np.testing.assert_array_equal(clusters(latent[:5], finite[:5]), [-1, 0, 0, 0, 0])
    assert (clusters(np.ones((20, 3)), np.ones(20, bool)) == 0).all()


def test_averages_of_frames_of_another_size_leave_out_what_is_not_finite():
    images, aligned = np.arange(6.0).reshape(6, 1, 1, 1), np.ones((6, 2, 2, 1)) * np.arange(6).reshape(6, 1, 1, 1)
    finite = np.array([True, True, True, True, False, True])
    found = averages(images, -aligned, finite, np.zeros((6, 2)), [7, 7, 2, 2, 2, 7])
    assert found.names == [2, 7]
    np.testing.assert_array_equal(found.count, [2, 3])
    np.testing.assert_allclose(found.raw.ravel(), [2.5, 2])
    np.testing.assert_allclose(found.aligned, -np.ones((2, 2, 2, 1)) * np.reshape([2.5, 2], (2, 1, 1, 1)))


def test_the_job_says_what_it_is(poses, run):
    job = json.loads((poses / "job.json").read_text())
    assert job["images"] == N
    assert job["run"] == str((run / "run").absolute())
