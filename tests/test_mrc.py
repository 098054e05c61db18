"""MRC stacks: read where they lie, standardised one by one."""

import sys

import mrcfile
import numpy as np
import pytest

from avae.data import sources
from avae.data.sources import mrc


def write(path, array):
    with mrcfile.new(path) as file:
        file.set_data(array)
        if array.ndim == 3:
            file.set_image_stack()
    return path


def read(path, dim=2, n_train=4, n_test=2):
    return sources.read(str(path), dim=dim, n_train=n_train, n_test=n_test)


def noise(*shape, dtype=np.float32):
    return (np.random.default_rng(0).normal(0, 20, shape) + 50).astype(dtype)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint16, np.float16, np.float32])
def test_each_image_has_mean_0_and_deviation_1(tmp_path, dtype):
    array = noise(6, 8, 7, dtype=dtype)
    raw = read(write(tmp_path / "a.mrcs", array))
    assert raw.train_images.on_disk
    images = np.concatenate([raw.train_images[:], raw.test_images[:]])
    assert images.shape == (6, 8, 7, 1)
    assert images.dtype == np.float32
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(images.std(axis=(1, 2, 3)), 1, atol=1e-4)
    order = np.random.default_rng(0).permutation(6)  # that of `draw`: test examples first
    for image, row in zip(raw.test_images[:], order[:2], strict=True):
        assert np.corrcoef(image.ravel(), array[row].astype(float).ravel())[0, 1] == pytest.approx(1, abs=1e-4)
    assert raw.class_names == ()


def test_an_extended_header_is_passed_over(tmp_path):
    array = noise(6, 8, 8)
    with mrcfile.new(tmp_path / "a.mrcs") as file:
        file.set_data(array)
        file.set_extended_header(np.zeros(100, "V1"))
        file.set_image_stack()
    row = np.random.default_rng(0).permutation(6)[0]
    np.testing.assert_allclose(
        read(tmp_path / "a.mrcs").test_images[np.array([0])], mrc.standardised(array[[row], ..., None]), atol=1e-5
    )


def test_volumes(tmp_path):
    raw = read(write(tmp_path / "a.mrc", noise(6, 5, 8, 7)), dim=3)
    assert raw.train_images.shape == (4, 5, 8, 7, 1)


def patched(path, *changes):
    """The file with other bytes from some offsets on."""
    content = bytearray(path.read_bytes())
    for at, by in changes:
        content[at : at + len(by)] = by
    path.write_bytes(content)
    return path


def first(path):
    """The first image of a file as it is read; test examples are drawn first."""
    row = np.random.default_rng(0).permutation(6)
    raw = read(path)
    return np.concatenate([raw.test_images[:], raw.train_images[:]])[row.tolist().index(0), ..., 0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([(212, bytes(4))], "Unrecognised machine stamp: 0x00 0x00 0x00 0x00"),
        ([(212, b"\x44   ")], "Unrecognised machine stamp"),
        ([(208, bytes(8))], "Map ID string not found; Unrecognised machine stamp"),
        ([(64, (2).to_bytes(4, "little") + (1).to_bytes(4, "little"))], r"axes are in the order (2, 1, 3) and stay so"),
        ([(40, np.float32([14, 32]).tobytes())], "its samples are 2, 4 long; taken as equal"),
    ],
)
def test_odd_headers_are_read_and_named(tmp_path, capsys, changes, words):
    array = noise(6, 8, 7)
    path = write(tmp_path / "a.mrcs", array)
    expected = mrc.standardised(array[:1, ..., None])[0, ..., 0]
    np.testing.assert_allclose(first(path), expected, atol=1e-5)
    assert capsys.readouterr().err == ""
    np.testing.assert_allclose(first(patched(path, *changes)), expected, atol=1e-5)
    said = capsys.readouterr().err
    assert f"{path}: read, but odd: " in said
    assert words in said


@pytest.mark.parametrize("stamp", [True, False])
@pytest.mark.parametrize("dtype", ["i1", "i2", "u2", "f2", "f4"])
def test_the_other_byte_order(tmp_path, dtype, stamp):
    array = noise(6, 8, 7, dtype=dtype)
    path = write(tmp_path / "a.mrcs", array.astype(np.dtype(dtype).newbyteorder(">")))
    if not stamp and dtype != "i1":  # mode 0 is the same in both orders
        patched(path, (212, bytes(4)))
    np.testing.assert_allclose(first(path), mrc.standardised(array[:1, ..., None])[0, ..., 0], atol=1e-4)


@pytest.mark.parametrize(("flags", "dtype"), [(0, np.uint8), (1, np.int8)])
def test_imod_says_whether_its_bytes_are_signed(tmp_path, flags, dtype):
    stored = np.random.default_rng(0).integers(-128, 128, (6, 8, 7)).astype(np.int8)
    path = write(tmp_path / "a.mrcs", stored)
    patched(path, (152, b"IMOD" + flags.to_bytes(4, "little")))
    expected = mrc.standardised(stored.view(dtype)[:1, ..., None])[0, ..., 0]
    np.testing.assert_allclose(first(path), expected, atol=1e-5)


def test_what_follows_the_last_section_is_named(tmp_path, capsys):
    path = write(tmp_path / "a.mrcs", noise(6, 8, 7))
    path.write_bytes(path.read_bytes() + bytes(100))
    read(path)
    assert "100 bytes after its 6 sections are left out" in capsys.readouterr().err


def test_a_constant_image_is_all_zeros():
    assert not mrc.standardised(np.full((2, 4, 4, 1), 7, np.int16)).any()


def test_large_means_lose_no_digits():
    image = 1e6 + np.random.default_rng(0).normal(0, 1, (1, 32, 32, 1))
    np.testing.assert_allclose(mrc.standardised(image.astype(np.float32)).std(), 1, atol=1e-4)


def test_bad_files_are_sentences(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mrcs", noise(6, 8, 8))
    with pytest.raises(ValueError, match=r"a.mrcs to hold volumes \[N, D, H, W\], .* got shape \(6, 8, 8\)"):
        read(path, dim=3)
    with pytest.raises(ValueError, match=r"at most the 6 examples of .*a.mrcs, got 5"):
        read(path, n_train=5)
    content = path.read_bytes()
    for damaged in (b"", content[:500], content[:-100], b"x" * 2000):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"expected an MRC stack, but .*a.mrcs cannot be read"):
            read(path)
    write(tmp_path / "c.mrcs", np.zeros((6, 8, 8), np.complex64))
    with pytest.raises(ValueError, match="real numbers, got dtype complex64"):
        read(tmp_path / "c.mrcs")
    path = write(tmp_path / "n.mrcs", noise(6, 8, 8))
    stored = np.memmap(path, np.float32, "r+", 1024, (6, 8, 8))
    stored[3, 2, 2] = np.nan
    stored.flush()
    with pytest.raises(ValueError, match=r"NaN or infinity in 1 of . examples of .*n.mrcs, first at index 3"):
        read(path)
    monkeypatch.setitem(sys.modules, "mrcfile", None)
    with pytest.raises(ValueError, match=r'which is missing: pip install "avae\[mrc\]"'):
        read(path)
