"""Folders of meshes as occupancy volumes."""

import sys

import numpy as np
import pytest
import trimesh

from avae.data import sources
from avae.data.sources import meshes

# A wedge: no two of its directions are alike. 2 wide (x), 3 deep (y), 6 high (z); its ridge is at x = 0.
WEDGE = trimesh.Trimesh(
    vertices=[[0, 0, 0], [2, 0, 0], [2, 3, 0], [0, 3, 0], [0, 0, 6], [0, 3, 6]],
    faces=[[0, 2, 1], [0, 3, 2], [0, 1, 4], [2, 3, 5], [0, 4, 5], [0, 5, 3], [1, 2, 5], [1, 5, 4]],
)
BOX = trimesh.creation.box((1.0, 2.0, 3.0))
OPEN = trimesh.Trimesh(BOX.vertices, BOX.faces[2:])


def save(mesh, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        content if isinstance(content := mesh.export(file_type=path.suffix[1:].lower()), bytes) else content.encode()
    )


@pytest.fixture
def tree(tmp_path):
    """Four boxes and four wedges, in all formats."""
    for name, mesh in (("box", BOX), ("wedge", WEDGE)):
        for suffix in meshes.SUFFIXES:
            save(mesh, tmp_path / name / f"{name}{suffix}")
    return tmp_path


@pytest.mark.parametrize("suffix", [*meshes.SUFFIXES, ".OFF", ".STL"])
def test_every_format_gives_the_same_volume(suffix, tmp_path):
    save(WEDGE, tmp_path / f"a{suffix}")
    save(WEDGE, tmp_path / "b.off")
    volume, closed = meshes.voxelise(tmp_path / f"a{suffix}", 16, "z")
    assert closed
    np.testing.assert_array_equal(volume, meshes.voxelise(tmp_path / "b.off", 16, "z")[0])


def test_a_header_fused_with_its_counts_loads(tmp_path):
    text = BOX.export(file_type="off")
    (tmp_path / "a.off").write_text(text)
    (tmp_path / "b.off").write_text(text.replace("OFF\n", "OFF", 1))
    assert (tmp_path / "b.off").read_text().startswith("OFF8 12 0")
    a, b = (meshes.voxelise(tmp_path / name, 16, "z")[0] for name in ("a.off", "b.off"))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("side", [8, 16, 32, 33])
def test_a_ball_is_centred_filled_and_takes_the_middle_of_the_frame(side, tmp_path):
    save(trimesh.creation.icosphere(3, radius=7.0).apply_translation([100, -20, 3]), tmp_path / "ball.ply")
    volume, closed = meshes.voxelise(tmp_path / "ball.ply", side, "y")
    inside = np.argwhere(volume)
    cells = side - 2 * round(0.15 * side)
    assert closed
    assert (inside.min(axis=0) + inside.max(axis=0) == side - 1).all()
    assert (np.ptp(inside, axis=0) == cells - 1).all()
    assert volume[(side // 2,) * 3]  # filled
    assert cells != 22 or abs(volume.sum() / (np.pi / 6 * cells**3) - 1) < 0.05


def test_the_axis_that_points_up_does_and_nothing_is_mirrored(tmp_path):
    save(WEDGE, tmp_path / "a.off")
    volume = meshes.voxelise(tmp_path / "a.off", 32, "z")[0]
    depth, height, width = (len(np.unique(index)) for index in np.argwhere(volume).T)
    assert (depth, height, width) == (12, 22, 8) or abs(depth - 11.5) <= 1
    rows = np.flatnonzero(volume.any(axis=(0, 2)))
    top, bottom = (np.argwhere(volume[:, row])[:, 1] for row in (rows[0], rows[-1]))
    assert len(np.unique(bottom)) > 3 * len(np.unique(top))  # the ridge is on top ...
    assert top.mean() < bottom.mean()  # ... at the left, where x is least

    turned = WEDGE.copy().apply_transform(trimesh.transformations.rotation_matrix(-np.pi / 2, [1, 0, 0]))  # now y is up
    save(turned, tmp_path / "b.off")
    np.testing.assert_array_equal(meshes.voxelise(tmp_path / "b.off", 32, "y")[0], volume)


def test_what_is_behind_in_a_mesh_is_behind_in_the_volume(tmp_path):
    plate = trimesh.creation.box((2, 0.4, 2)).apply_translation([0, 1.8, 0])  # large, far along y
    pillar = trimesh.creation.box((0.4, 3, 0.4))
    save(trimesh.util.concatenate([plate, pillar]), tmp_path / "a.off")
    volume = meshes.voxelise(tmp_path / "a.off", 32, "z")[0]  # z up, x right: y points away from the viewer
    areas = volume.sum(axis=(1, 2))
    assert areas[16:].max() > 5 * areas[:16].max()


def test_a_folder_is_read_with_its_classes(tree, capsys):
    raw = sources.read(str(tree), dim=3, n_train=5, n_test=3, side=16)
    assert raw.train_images.shape == (5, 16, 16, 16, 1)
    assert raw.train_images[:].dtype == np.float32
    assert raw.class_names == ("box", "wedge")
    labels = np.concatenate([raw.train_labels, raw.test_labels])
    assert np.bincount(labels).tolist() == [4, 4]  # every mesh once
    sizes = np.concatenate([raw.train_images, raw.test_images]).sum(axis=(1, 2, 3, 4))
    assert sizes[labels == 0].min() > sizes[labels == 1].max()  # a box is larger than a wedge
    assert "8/8 files" in capsys.readouterr().err


@pytest.mark.parametrize("layout", ["{name}/{part}/x.off", "{part}/{name}/x.off"])
def test_folders_called_train_and_test_give_the_split(layout, tmp_path):
    for part, mesh in (("train", BOX), ("test", WEDGE)):
        for name in ("chair", "bed"):
            save(mesh, tmp_path / layout.format(part=part, name=name))
    raw = sources.read(str(tmp_path), dim=3, n_train=2, n_test=2, side=8)
    assert raw.class_names == ("bed", "chair")
    assert (
        raw.train_images[:][0].sum()
        == raw.train_images[:][1].sum()
        > raw.test_images[:][0].sum()
        == raw.test_images[:][1].sum()
    )
    with pytest.raises(
        ValueError, match=r"data.n_train: expected at most the 2 usable meshes in folders train of .*got 3"
    ):
        sources.read(str(tmp_path), dim=3, n_train=3, n_test=1)
    save(BOX, tmp_path / "stray" / "x.off")
    with pytest.raises(ValueError, match=r"in a folder train or test, or none, but .*stray"):
        meshes.find(tmp_path)


def test_hidden_files_are_no_meshes(tmp_path):
    save(BOX, tmp_path / "a.off")
    for name in ("._a.off", "__MACOSX/a.off", ".trash/a.off", "readme.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert [(mesh.path.name, mesh.category) for mesh in meshes.find(tmp_path)] == [("a.off", tmp_path.name)]


BAD = {
    "empty.off": ("", "unreadable"),
    "words.off": ("hello", "unreadable"),
    "words.ply": ("ply\nhello", "unreadable"),
    "nothing.obj": ("hello", "no faces"),
    "points.off": ("OFF\n3 0 0\n0 0 0\n1 0 0\n0 1 0\n", "no faces"),
    "point.off": ("OFF\n3 1 0\n0 0 0\n0 0 0\n0 0 0\n3 0 1 2\n", "extent above zero, got 0.0"),
    "short.off": ("OFF\n3 1 0\n1 0 0\n0 1 0\n", "unreadable"),
    "index.off": ("OFF\n3 1 0\n1 0 0\n0 1 0\n0 0 0\n3 0 1 7\n", "unreadable"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_mesh_is_left_out_by_name(name, tmp_path, capsys):
    content, reason = BAD[name]
    (tmp_path / name).write_text(content)
    save(BOX, tmp_path / "box1.off")
    save(BOX, tmp_path / "box2.off")
    raw = sources.read(str(tmp_path), dim=3, n_train=1, n_test=1, side=8, seed=first_drawn(tmp_path, name))
    assert raw.train_images[:].sum() == raw.test_images[:].sum() > 0
    said = capsys.readouterr().err
    assert f"1 left out: {name} (" in said
    assert reason in said


def first_drawn(root, name):
    """A seed by which `name` is drawn before the last mesh: only meshes that are needed are read."""
    found = [mesh.path.name for mesh in meshes.find(root)]
    place = found.index(name)
    return next(seed for seed in range(99) if np.random.default_rng(seed).permutation(len(found))[-1] != place)


def test_open_meshes_stay_and_are_named(tmp_path, capsys):
    save(OPEN, tmp_path / "open.off")
    save(BOX, tmp_path / "closed.off")
    raw = sources.read(str(tmp_path), dim=3, n_train=1, n_test=1, side=16)
    assert "1 open, filled where they enclose voxels: open.off" in capsys.readouterr().err
    assert min(raw.train_images[:].sum(), raw.test_images[:].sum()) > 0


def test_no_mesh_left_is_a_sentence_that_names_the_first(tmp_path):
    for index in range(7):
        (tmp_path / f"{index}.off").write_text("OFF\n")
    with pytest.raises(
        ValueError, match=r"at most the 0 usable meshes of .*, got 1 \+ 1; left out: .*off \(.* and 2 more"
    ):
        sources.read(str(tmp_path), dim=3, n_train=1, n_test=1)


def test_too_few_meshes_are_said_at_once(tree, monkeypatch):
    monkeypatch.setattr(meshes, "voxelise", None)  # not one is read
    with pytest.raises(ValueError, match=r"at most the 8 usable meshes of .*, got 7 \+ 2"):
        sources.read(str(tree), dim=3, n_train=7, n_test=2)


def test_a_folder_without_meshes_and_images_asked_for(tree, tmp_path_factory):
    with pytest.raises(
        ValueError, match=r"expected meshes \(\.off, \.obj, \.stl, \.ply\) in the folder .*, found none"
    ):
        sources.read(str(tmp_path_factory.mktemp("none")), dim=3, n_train=1, n_test=1)
    with pytest.raises(ValueError, match="meshes become volumes, but the transform poses images"):
        sources.read(str(tree), dim=2, n_train=1, n_test=1)


def test_without_trimesh_the_extra_is_named(tree, monkeypatch):
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(ValueError, match=r'pip install "avae\[mesh\]"'):
        sources.read(str(tree), dim=3, n_train=1, n_test=1)
