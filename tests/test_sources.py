"""Where images come from: embedded sets, the user's stacks, and what is said about bad ones."""

import itertools
import pathlib
import zipfile

import numpy as np
import pytest

from avae import data
from avae.data import sources
from avae.data.sources import meshes

ROOT = pathlib.Path(data.__file__).parent


def numbered(n, *shape):
    """Examples whose every value is their index: rows can be told apart."""
    return np.broadcast_to(np.arange(n, dtype=np.float32).reshape(n, *[1] * len(shape)), (n, *shape)).copy()


def read(name, dim=2, n_train=3, n_test=2, **changes):
    """What a source gives, with its images read into arrays."""
    raw = sources.read(str(name), dim=dim, n_train=n_train, n_test=n_test, **changes)
    return raw._replace(train_images=raw.train_images[:], test_images=raw.test_images[:])


def indices(images):
    return images.reshape(len(images), -1)[:, 0].astype(int).tolist()


@pytest.fixture(scope="module")
def furniture():
    """All pieces [600, 32, 32, 32] of bools in our frame, and their names."""
    stack, _ = sources.embedded.read("furniture")
    with np.load(ROOT / "furniture" / "furniture.npz") as archive:
        return stack.images[..., 0], archive["name"]


# --- embedded -------------------------------------------------------------------------------------------------------


def test_digits_keep_the_order_of_the_file():
    raw = read("digits", n_train=5, n_test=4, seed=7)
    with np.load(ROOT / "digits" / "digits.npz") as archive:
        np.testing.assert_allclose(raw.train_images[..., 0] * 255, archive["train_images"][:5], atol=1e-4)
        np.testing.assert_array_equal(raw.test_labels, archive["test_labels"][:4])
    assert raw.class_names == tuple("0123456789")


def test_furniture_comes_as_volumes_with_named_categories():
    raw = read("furniture", dim=3, n_train=40, n_test=20)
    assert raw.train_images.shape == (40, 32, 32, 32, 1)
    assert raw.train_images.dtype == np.float32
    assert raw.train_labels.dtype == np.int32
    assert set(np.unique(raw.train_images)) == {0.0, 1.0}
    assert list(raw.class_names) == sorted(raw.class_names)
    assert {"Bedroom", "Kitchen", "Vehicles"} <= set(raw.class_names)


def test_cells_are_pictures_named_by_line_and_treatment():
    raw = read("cells", n_train=600, n_test=50)
    assert raw.train_images.shape == (600, 64, 64, 1)
    assert raw.class_names == tuple(f"{a}, {b}" for a in ("dlm8", "dunn") for b in ("control", "cytd", "jasp"))
    labels = np.concatenate([raw.train_labels, raw.test_labels])
    assert np.bincount(labels).tolist() == [114, 82, 62, 204, 93, 95]
    filled = np.concatenate([raw.train_images, raw.test_images]).reshape(650, -1)
    assert filled.max() == 1
    area = [np.median(filled[labels == label].sum(1)) for label in (0, 4)]
    assert area[0] < 60 < 100 < area[1]  # untreated DLM8 are small and round


def test_the_notice_of_the_cells_is_that_of_the_mit_licence():
    notice = " ".join((ROOT / "cells" / "NOTICE.md").read_text(encoding="utf-8").split())
    assert "Copyright (c) 2018 Nina Miolane" in notice
    assert "The above copyright notice and this permission notice shall be included in all copies" in notice


def test_our_frame_is_a_rotation_of_the_physical_one_and_up_is_the_first_row():
    columns = []
    for axis in range(3):  # one voxel along +x, +y and +z of the physical frame from the centre of 5 x 5 x 5
        voxels = np.zeros((5, 5, 5), bool)
        voxels[tuple(np.array([2, 2, 2]) + np.eye(3, dtype=int)[axis])] = True
        columns.append(np.argwhere(meshes.stand(voxels))[0][::-1] - 2)  # [D, H, W] as x, y, z
    assert columns[0].tolist() == [1, 0, 0]
    assert columns[1].tolist() == [0, -1, 0]  # up: towards the first row of an image
    assert columns[2].tolist() == [0, 0, -1]  # toward the viewer: the first slice
    assert np.linalg.det(np.stack(columns, axis=1)) == pytest.approx(1)


def test_furniture_stands_faces_the_viewer_and_is_not_mirrored(furniture):
    volumes, names = furniture
    table = volumes[names == "Oak table"][0]
    rows = np.flatnonzero(table.any(axis=(0, 2)))
    assert table[:, rows[0]].sum() > 4 * table[:, rows[-1]].sum()  # the top above the legs
    armchair = volumes[names == "Armchair"][0]
    assert np.argwhere(armchair[:, :16])[:, 0].mean() > 17  # its upper half is the back rest, away from the viewer
    piano = volumes[names == "Grand piano"][0]
    depths = np.flatnonzero(piano.any(axis=(1, 2)))
    keyboard, tail = (np.flatnonzero(piano[depth].any(axis=0)) for depth in depths[[0, -1]])
    assert len(keyboard) > 2 * len(tail)
    assert tail.mean() < keyboard.mean() - 2  # the tail of every grand piano is at the player's left: where the bass is


def test_the_notice_of_the_furniture_names_every_creator():
    notice = (ROOT / "furniture" / "NOTICE.md").read_text(encoding="utf-8")
    with np.load(ROOT / "furniture" / "furniture.npz") as archive:
        sections = {part.split(" (")[0]: part for part in notice.split("\n## ")[1:]}
        assert set(sections) == set(archive["source"].tolist())
        for source, creator in zip(archive["source"].tolist(), archive["creator"].tolist(), strict=True):
            assert f"\n- {creator}:" in sections[source]
    assert all("creativecommons.org" in section for section in sections.values())


# --- stacks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dim", "shape", "expected"),
    [
        (2, (6, 5, 4), (5, 4, 1)),
        (2, (6, 5, 4, 2), (5, 4, 2)),
        (3, (6, 5, 4, 7), (5, 4, 7, 1)),
        (3, (6, 5, 4, 7, 2), (5, 4, 7, 2)),
    ],
)
def test_the_dimension_says_what_a_rank_means(dim, shape, expected, tmp_path):
    np.save(tmp_path / "stack.npy", np.zeros(shape, np.float32))
    raw = read(tmp_path / "stack.npy", dim)
    assert raw.train_images.shape == (3, *expected)
    assert raw.test_images.shape == (2, *expected)
    assert raw.class_names == ()
    assert not raw.train_labels.any()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.uint8([0, 51, 255]), [0, 0.2, 1]),
        (np.array([False, True, True]), [0, 1, 1]),
        (np.array([-3.5, 0, 1e3]), [-3.5, 0, 1e3]),
        (np.array([-3.5, 0, 2], np.float16), [-3.5, 0, 2]),
    ],
)
def test_values_become_floats(values, expected, tmp_path):
    np.save(tmp_path / "stack.npy", np.tile(values, (2, 3, 1)))
    raw = read(tmp_path / "stack.npy", n_train=1, n_test=1)
    assert raw.train_images.dtype == np.float32
    np.testing.assert_allclose(raw.train_images[0, 0, :, 0], expected, rtol=1e-6)


@pytest.mark.parametrize(("largest", "expected"), [(1, 1), (2, 2 / 255)])
def test_masks_of_eight_bits_are_0_and_1(largest, expected, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sources.stacks, "CHUNK", 32)
    masks = np.zeros((9, 4, 4), np.uint8)
    masks[8, 1, 2] = masks[2, 3, 3] = 1  # the whole file counts, not the rows that are drawn
    masks[5, 0, 0] = largest
    np.save(tmp_path / "a.npy", masks)
    raw = sources.read(str(tmp_path / "a.npy"), dim=2, n_train=7, n_test=2)
    assert raw.train_images.on_disk
    assert ("8-bit values of 0 and 1 alone are taken as 0 and 1" in capsys.readouterr().err) == (largest == 1)
    assert max(raw.train_images[:].max(), raw.test_images[:].max()) == np.float32(expected)
    np.savez(tmp_path / "a.npz", train_images=masks[:5], test_images=masks[5:])
    raw = read(tmp_path / "a.npz", n_train=5, n_test=4)
    assert raw.train_images.max() == np.float32(1 if largest == 1 else 1 / 255)  # both parts are on one scale


def test_the_split_is_disjoint_and_follows_the_seed(tmp_path):
    np.save(tmp_path / "stack.npy", numbered(20, 3, 3))
    one, same, other = (read(tmp_path / "stack.npy", n_train=14, n_test=6, seed=seed) for seed in (0, 0, 1))
    assert sorted(indices(one.train_images) + indices(one.test_images)) == list(range(20))
    np.testing.assert_array_equal(one.train_images, same.train_images)
    assert set(indices(one.test_images)) != set(indices(other.test_images))
    fewer = read(tmp_path / "stack.npy", n_train=1, n_test=4)  # fewer are the first of more, whatever else is asked for
    assert indices(fewer.test_images) == indices(one.test_images)[:4]


def test_labels_of_either_kind_index_the_class_names(tmp_path):
    names = np.array(["mug", "chair", "mug", "bed", "bed"])
    for labels, expected in ((names, ("bed", "chair", "mug")), (np.array([30, 4, 30, -1, -1]), ("-1", "4", "30"))):
        np.savez(tmp_path / "stack.npz", volumes=numbered(5, 3, 3), labels=labels)
        raw = read(tmp_path / "stack.npz")
        assert raw.class_names == expected
        for images, found in ((raw.train_images, raw.train_labels), (raw.test_images, raw.test_labels)):
            assert [raw.class_names[label] for label in found] == [str(labels[row]) for row in indices(images)]


@pytest.mark.parametrize(
    ("train", "test", "names"),
    [
        (np.array(["é".encode(), b"b"]), np.array([b"\xff", b"b"]), (r"\xff", "b", "é")),
        (np.array([True, False]), np.array([True, True]), ("False", "True")),
        (np.array([2**63, 1], np.uint64), np.array([-1, 1]), ("-1", "1", str(2**63))),
        (np.array(["a", "b"]), np.array([3, 1]), ("1", "3", "a", "b")),
        (np.array([5, 1], ">i4"), np.array([-7, 1], np.int8), ("-7", "1", "5")),
    ],
)
def test_labels_of_every_kind_keep_their_names(train, test, names, tmp_path):
    images = numbered(2, 3, 3)
    np.savez(tmp_path / "a.npz", train_images=images, train_labels=train, test_images=images, test_labels=test)
    raw = read(tmp_path / "a.npz", n_train=2)
    assert raw.class_names == names
    for stored, labels, images in (
        (train, raw.train_labels, raw.train_images),
        (test, raw.test_labels, raw.test_images),
    ):
        for label, row in zip(labels, indices(images), strict=True):
            stored_name = stored[row]
            name = stored_name.decode(errors="backslashreplace") if isinstance(stored_name, bytes) else str(stored_name)
            assert names[label] == name


@pytest.mark.parametrize("change", ["big-endian", "fortran", "long"])
def test_arrays_of_any_layout(change, tmp_path):
    images = np.random.default_rng(0).random((5, 4, 3))
    kinds = {
        "big-endian": images.astype(">f4"),
        "fortran": np.asfortranarray(images),
        "long": images.astype(np.longdouble),
    }
    np.save(tmp_path / "a.npy", kinds[change])
    raw = read(tmp_path / "a.npy")
    order = np.random.default_rng(0).permutation(5)
    np.testing.assert_allclose(np.concatenate([raw.test_images, raw.train_images])[..., 0], images[order], rtol=1e-6)
    assert raw.train_images.dtype == np.float32
    assert raw.train_images.dtype.isnative


@pytest.mark.parametrize("noun", ["images", "volumes"])
def test_a_given_split_is_kept(noun, tmp_path):
    split = {f"train_{noun}": numbered(6, 3, 3), f"test_{noun}": numbered(4, 3, 3) + 100}
    np.savez(tmp_path / "a.npz", **split, test_labels=np.arange(4))
    raw = read(tmp_path / "a.npz", n_train=6, n_test=4)
    assert sorted(indices(raw.train_images)) == list(range(6))
    assert sorted(indices(raw.test_images)) == [100, 101, 102, 103]
    np.testing.assert_array_equal(raw.test_labels, np.array(indices(raw.test_images)) - 100)


def test_the_only_array_of_an_archive_may_have_any_name(tmp_path):
    np.savez(tmp_path / "a.npz", particles=numbered(5, 3, 3), labels=np.arange(5))
    raw = read(tmp_path / "a.npz")
    assert indices(raw.train_images) == raw.train_labels.tolist()


# --- what is wrong is said ------------------------------------------------------------------------------------------


def with_nan(n, *rows):
    images = numbered(n, 3, 3)
    images[list(rows), 1, 2] = np.nan
    return images


@pytest.mark.parametrize(
    ("array", "dim", "message"),
    [
        (np.zeros((5, 4)), 2, r"images \[N, H, W\] or \[N, H, W, C\], .* got shape \(5, 4\)"),
        (np.zeros((5, 4, 4)), 3, r"volumes \[N, D, H, W\] or .* got shape \(5, 4, 4\)"),
        (np.zeros((5, 4, 4, 4, 1)), 2, r"images .* got shape \(5, 4, 4, 4, 1\)"),
        (np.zeros((5, 4, 4, 3)), 3, r"\(5, 4, 4, 3\), look like images with 3 channel"),
        (np.zeros((0, 4, 4)), 2, r"an empty array of shape \(0, 4, 4\)"),
        (np.zeros((5, 4, 4), np.uint16), 2, r"8-bit, bool or real, got dtype uint16; .* x\.astype\(bool\), .*gaussian"),
        (np.zeros((5, 4, 4), complex), 2, "got dtype complex128; save their absolute values"),
        (np.zeros((5, 4, 4), "f4, i4"), 2, r"got dtype \[.*; save one array of numbers"),
        (np.zeros((5, 4, 4), object), 2, r"images of .*stack.npy .* Python objects"),
        (with_nan(5, 3, 4, 2), 2, r"NaN or infinity in \d of 3 examples of .*stack.npy, first at index [234]"),
        (np.full((5, 4, 4), 1e300), 2, "NaN or infinity in 3 of 3"),
        (np.zeros((4, 4, 4)), 2, r"at most the 4 examples of .*, got 3 \+ 2; .*n_train=2 .*n_test=2 takes all$"),
    ],
)
def test_a_bad_stack_is_a_sentence(array, dim, message, tmp_path):
    np.save(tmp_path / "stack.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "stack.npy", dim)


def test_the_first_bad_example_is_named_by_its_place_in_the_file(tmp_path):
    np.savez(tmp_path / "a.npz", train_images=with_nan(9, 7, 5), test_images=numbered(2, 3, 3))
    with pytest.raises(ValueError, match=r"in 2 of 9 train examples of .*a\.npz, first at index 5$"):
        read(tmp_path / "a.npz", n_train=9)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"images": numbered(5, 3, 3), "labels": np.arange(4)},
            r"integers or strings \[5\], got dtype int64 .* \(4,\)",
        ),
        ({"images": numbered(5, 3, 3), "labels": np.zeros(5)}, "got dtype float64"),
        ({"a": numbered(5, 3, 3), "b": numbered(5, 3, 3)}, "one stack .* called images .* or a split, .* got a, b"),
        ({"labels": np.arange(4)}, "got labels"),
        ({"train_images": numbered(5, 3, 3)}, "lacks test_images"),
        (
            {"train_images": numbered(5, 3, 3), "test_images": numbered(1, 3, 3)},
            "n_test: .* at most the 1 test examples",
        ),
        ({"train_images": numbered(5, 3, 3), "test_images": numbered(5, 4, 3)}, r"\(3, 3, 1\) and \(4, 3, 1\)"),
        ({"images": np.zeros((5, 3, 3), object)}, r"images of .*a\.npz .* objects .*; save numpy\.stack"),
        (
            {"images": numbered(6, 3, 3), "labels": np.array(["a", "b"] * 3, object)},
            r"expected labels of .*a\.npz to be numbers or strings, .* save labels\.astype\(str\)",
        ),
    ],
)
def test_a_bad_archive_is_a_sentence(arrays, message, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "a.npz")


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_damaged_file_is_a_sentence(suffix, tmp_path):
    path = tmp_path / f"stack{suffix}"
    (np.save if suffix == ".npy" else np.savez_compressed)(path, np.random.default_rng(0).random((5, 9, 9)))
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    damaged = [b"", b"hello", whole[:20], whole[: len(whole) // 2]] + [bytes(flipped)] * (suffix == ".npz")
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"stack{suffix} cannot be read"):
            read(path)


def test_an_array_that_is_no_array_is_a_sentence(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match=r"expected one stack in .*a\.npz, called images .* got no array"):
        read(tmp_path / "a.npz")


def test_a_missing_source_is_a_sentence_with_a_suggestion(tmp_path):
    np.save(tmp_path / "stack.npy", numbered(5, 3, 3))
    for name in ("notes.txt", "x.npy.gz", "x.jpg"):
        (tmp_path / name).write_text("")
    for name, message in (
        ("digts", "nothing is at 'digts'; did you mean 'digits'"),
        (tmp_path / "stak.npy", r"did you mean '.*stack\.npy'"),
        (tmp_path / "nowhere" / "x.npy", r"nothing is at '.*x\.npy' \(tried .*; .* eval\.py takes --data=PATH\)$"),
        ("nowhere/x.npy", rf"\(tried {pathlib.Path.cwd()}/nowhere/x\.npy;"),
        (tmp_path / "notes.txt", r"got the file .*notes.txt; save what it holds by numpy\.save"),
        (tmp_path / "x.npy.gz", "got the file .*x.npy.gz; unpack it first"),
        (tmp_path / "x.jpg", "got the file .*x.jpg; name the folder that holds it"),
    ):
        with pytest.raises(ValueError, match=message):
            read(name)


@pytest.mark.parametrize(("name", "dim"), [("digits", 3), ("cells", 3), ("furniture", 2)])
def test_embedded_data_of_another_dimension_is_a_sentence(name, dim):
    with pytest.raises(ValueError, match=f"the {name} are (images|volumes), but the transform poses (images|volumes)"):
        read(name, dim)


def test_more_furniture_than_there_is():
    with pytest.raises(ValueError, match=r"at most the 600 embedded pieces of furniture, got 600 \+ 1"):
        read("furniture", 3, 600, 1)


def test_furniture_splits_do_not_overlap(furniture):
    volumes, _ = furniture
    raw = read("furniture", 3, 500, 100, seed=3)
    keys = [volume.astype(bool).tobytes() for volume in itertools.chain(raw.train_images, raw.test_images)]
    assert sorted(keys) == sorted(volume.tobytes() for volume in volumes)  # every piece once
