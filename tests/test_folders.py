"""Folders of images: labels and splits from folders, how values become numbers, and what is said about bad files."""

import numpy as np
import pytest
from PIL import Image

from avae.data import sources
from avae.data.sources import folders


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("AVAE_CACHE", str(tmp_path_factory.mktemp("cache")))


def save(path, array, **settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **settings)


def grey(value, shape=(5, 4)):
    return np.full(shape, value, np.uint8)


def read(root, n_train=3, n_test=2):
    raw = sources.read(str(root), dim=2, n_train=n_train, n_test=n_test)
    return raw._replace(train_images=raw.train_images[:], test_images=raw.test_images[:])


def values(raw):
    return np.concatenate([raw.train_images, raw.test_images])


def test_sub_folders_are_labels_and_every_format_is_read(tmp_path):
    for i, suffix in enumerate(("png", "jpg", "jpeg", "tif", "TIFF")):
        save(tmp_path / ("a" if i < 3 else "b") / f"{i}.{suffix}", grey(40 * i))
    (tmp_path / "notes.txt").write_text("no image")
    raw = read(tmp_path)
    assert raw.class_names == ("a", "b")
    assert raw.train_images.shape == (3, 5, 4, 1)
    for images, labels in ((raw.train_images, raw.train_labels), (raw.test_images, raw.test_labels)):
        steps = np.round(images.mean(axis=(1, 2, 3)) * 255 / 40).astype(int)
        np.testing.assert_array_equal(labels, steps >= 3)
    np.testing.assert_allclose(np.sort(values(raw)[:, 0, 0, 0]), np.arange(5) * 40 / 255, atol=1e-6)


def test_folders_train_and_test_are_the_split(tmp_path):
    for part, n in (("train", 3), ("test", 2)):
        for i in range(n):
            save(tmp_path / part / "ab"[i % 2] / f"{i}.png", grey(100 * (part == "test") + i))
    raw = read(tmp_path)
    assert sorted(np.round(raw.test_images[:, 0, 0, 0] * 255)) == [100, 101]
    assert raw.class_names == ("a", "b")
    with pytest.raises(ValueError, match="n_test: expected at most the 2 test readable images of"):
        read(tmp_path, n_test=3)


def test_without_sub_folders_there_are_no_labels(tmp_path):
    for i in range(5):
        save(tmp_path / f"{i}.png", grey(i))
    assert read(tmp_path).class_names == ()


def test_colours_palettes_and_bits(tmp_path):
    for name, mode, expected in (("c", "RGB", 3), ("p", "P", 3), ("l", "LA", 2), ("a", "RGBA", 4), ("b", "1", 1)):
        for i in range(5):
            path = tmp_path / name / f"{i}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.tile(np.uint8([[0, 255]]), (5, 2))).convert(mode).save(path)
        raw = read(tmp_path / name)
        assert raw.train_images.shape == (3, 5, 4, expected)
        np.testing.assert_array_equal(raw.train_images[0, 0, :, 0], [0, 1, 0, 1])


@pytest.mark.parametrize(
    ("dtype", "low", "high"), [(np.uint16, 100, 4100), (np.float32, -3e4, 5e4), (np.int32, -7, 100_000)]
)
def test_wide_values_are_scaled_by_the_range_of_the_whole_folder(tmp_path, capsys, dtype, low, high):
    stored = np.linspace(low, high, 5).astype(dtype)
    for i, value in enumerate(stored):
        save(tmp_path / f"{i}.tif", np.full((5, 4), value, dtype))
    for _ in range(2):  # from the cache as well
        np.testing.assert_allclose(np.sort(values(read(tmp_path))[:, 0, 0, 0]), np.linspace(0, 1, 5), atol=1e-4)
        assert f"values from {float(low):.6g} to {float(high):.6g} (mean " in capsys.readouterr().err


def test_sixteen_bits_of_a_png_and_of_the_other_byte_order(tmp_path):
    array = np.uint16([[0, 256], [1, 65535]])
    for i in range(5):
        save(tmp_path / "png" / f"{i}.png", array)
        (tmp_path / "big").mkdir(exist_ok=True)
        Image.frombytes("I;16B", (2, 2), array.astype(">u2").tobytes()).save(tmp_path / "big" / f"{i}.tif")
    for name in ("png", "big"):
        np.testing.assert_allclose(read(tmp_path / name).train_images[0, ..., 0], array / 65535, atol=1e-6)


def test_real_values_between_0_and_1_stay(tmp_path):
    for i in range(5):
        save(tmp_path / f"{i}.tif", np.full((5, 4), 0.1 + i / 10, np.float32))
    np.testing.assert_allclose(np.sort(values(read(tmp_path))[:, 0, 0, 0]), np.arange(0.1, 0.6, 0.1), atol=1e-6)


def test_a_constant_folder_of_sixteen_bits_is_black(tmp_path):
    for i in range(5):
        save(tmp_path / f"{i}.tif", np.full((5, 4), 7, np.uint16))
    assert not values(read(tmp_path)).any()


def test_it_is_decoded_once_and_again_where_a_file_changed(tmp_path, capsys, monkeypatch):
    for i in range(5):
        save(tmp_path / f"{i}.png", grey(i))
    read(tmp_path)
    assert "decoding" in capsys.readouterr().err
    read(tmp_path)
    assert capsys.readouterr().err == ""
    save(tmp_path / "5.png", grey(200))
    assert len(values(read(tmp_path, n_train=4))) == 6
    assert "decoding" in capsys.readouterr().err


# --- what is wrong is said ------------------------------------------------------------------------------------------


def test_mixed_sizes_and_kinds_are_counted(tmp_path):
    for i in range(4):
        save(tmp_path / f"{i}.png", grey(i))
    save(tmp_path / "wide.png", grey(0, (5, 9)))
    save(tmp_path / "deep.tif", np.zeros((5, 4), np.uint16))
    save(tmp_path / "colour.png", grey(0, (5, 4, 3)))
    with pytest.raises(
        ValueError,
        match=r"one size and kind in .*, got 4 of 4x5 8-bit grey, .*1 of 9x5 8-bit grey",
    ) as caught:
        read(tmp_path)
    assert "1 of 4x5 16-bit grey" in str(caught.value)
    assert "1 of 4x5 8-bit colour" in str(caught.value)


def spoil(path, how):
    if how == "words":
        path.write_text("no image")
    elif how == "cut":
        save(path, np.random.default_rng(0).integers(0, 255, (5, 4), np.uint8))
        path.write_bytes(path.read_bytes()[:-40])
    elif how == "pages":
        pages = [Image.fromarray(grey(i)) for i in range(2)]
        pages[0].save(path, save_all=True, append_images=pages[1:])
    elif how == "empty":
        path.write_bytes(b"")


@pytest.mark.parametrize(
    ("name", "how", "reason"),
    [
        ("z.png", "words", "cannot identify"),
        ("z.png", "cut", "OSError"),
        ("z.tif", "pages", "2 pages"),
        ("z.jpg", "empty", "cannot identify"),
    ],
)
def test_unreadable_files_are_named_counted_and_left_out(tmp_path, capsys, name, how, reason):
    for i in range(10):
        save(tmp_path / f"{i}.png", grey(i))
    spoil(tmp_path / name, how)
    raw = read(tmp_path, n_train=8)
    assert sorted(np.round(values(raw)[:, 0, 0, 0] * 255)) == list(range(10))
    said = capsys.readouterr().err
    assert f"1 file(s) left out: {name} (" in said
    assert reason in said
    with pytest.raises(ValueError, match="at most the 10 readable images of"):
        read(tmp_path, n_train=9)
    assert "1 file(s) left out" in capsys.readouterr().err  # from the cache as well


def test_nan_is_unreadable(tmp_path, capsys):
    for i in range(10):
        save(tmp_path / f"{i}.tif", np.full((5, 4), i / 10, np.float32))
    save(tmp_path / "z.tif", np.full((5, 4), np.nan, np.float32))
    assert np.isfinite(values(read(tmp_path, n_train=8))).all()
    assert "z.tif (NaN or infinity)" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["words", "cut"])
def test_more_than_a_tenth_unreadable_is_an_error(tmp_path, how):
    for i in range(10):
        save(tmp_path / f"{i}.png", grey(i))
    for name in ("y.png", "z.png"):
        spoil(tmp_path / name, how)
    with pytest.raises(ValueError, match=r"at most 1 unreadable files \(a tenth\) in .*, got 2 already: y.png .*z.png"):
        read(tmp_path)


def test_one_file_too_few_for_a_tenth_is_an_error(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(ValueError, match="at most 0 unreadable files"):
        read(tmp_path)


def test_folders_without_images_are_sentences(tmp_path):
    with pytest.raises(ValueError, match=r"expected images \(.png, .*\) in the folder .*, found none"):
        read(tmp_path)
    save(tmp_path / "train" / "0.png", grey(0))
    with pytest.raises(ValueError, match=r"in folders train and test of .*, got them in train alone"):
        read(tmp_path)
    with pytest.raises(ValueError, match=r"expected meshes .* found none"):
        sources.read(str(tmp_path), dim=3, n_train=1, n_test=1)


def test_the_docstring_tells_the_limit():
    assert folders.LIMIT == 0.1
    assert "a tenth" in folders.read.__doc__
