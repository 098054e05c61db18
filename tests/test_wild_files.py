"""Stacks as other programs keep them: pages of TIFF, HDF5, Zarr, compressed MRC, RELION's tables."""

import bz2
import gzip
import pathlib

import h5py
import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
import tifffile
import zarr

import avae
from avae import choose
from avae.data import dataset as data, sources
from avae.networks.values import standardised

IMAGES = np.random.default_rng(0).normal(50, 10, (12, 8, 9)).astype(np.float32)
WHOLE = IMAGES.round().clip(0, 255).astype(np.uint8)


def read(name, dim=2):
    """All examples of a source, in its order."""
    train, test = sources.stored(str(name), dim)
    assert train is test
    return train.scale(np.asarray(train.images[np.arange(len(train.images))])), train.labels


def splits(name):
    return data.load(data.Data(str(name), pose="as_is", n_train=8, n_test=4, transform=avae.Rotation()))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_pages_of_tiff(dtype, compression, tmp_path):
    stored = IMAGES.astype(dtype)
    tifffile.imwrite(tmp_path / "stack.tif", stored, photometric="minisblack", compression=compression)
    images, labels = read(tmp_path / "stack.tif")
    np.testing.assert_allclose(images[..., 0], stored / (255 if dtype == np.uint8 else 1), rtol=1e-6)
    assert labels is None
    assert splits(tmp_path / "stack.tif").train.images[:].shape == (8, 8, 9, 1)


def test_pages_whose_zero_is_white_and_planes_of_ome(tmp_path):
    tifffile.imwrite(tmp_path / "white.tif", WHOLE, photometric="miniswhite")
    np.testing.assert_allclose(read(tmp_path / "white.tif")[0][..., 0], 1 - WHOLE / 255, rtol=1e-6)
    two = np.stack([IMAGES, 2 * IMAGES], axis=1)  # [T, C, Y, X]
    tifffile.imwrite(tmp_path / "two.ome.tif", two, metadata={"axes": "TCYX"}, photometric="minisblack")
    np.testing.assert_array_equal(read(tmp_path / "two.ome.tif")[0], np.moveaxis(two, 1, -1))


def test_one_page_is_no_stack(tmp_path):
    tifffile.imwrite(tmp_path / "one.tif", WHOLE[0])
    with pytest.raises(avae.Mistake, match=r"expected a stack of pages, got one image in .*; name the folder instead"):
        read(tmp_path / "one.tif")
    (tmp_path / "bad.tif").write_bytes(b"II*\0 nothing")
    with pytest.raises(avae.Mistake, match=r"expected a TIFF stack, but .*bad.tif cannot be read"):
        read(tmp_path / "bad.tif")


def test_hdf5(tmp_path):
    with h5py.File(tmp_path / "file.h5", "w") as file:
        file["raw/images"] = IMAGES
        file["raw/labels"] = np.arange(12) % 3
        file["other"] = np.zeros((12, 4, 4))
    name = f"{tmp_path / 'file.h5'}:raw/images"
    images, labels = read(name)
    np.testing.assert_array_equal(images[..., 0], IMAGES)
    np.testing.assert_array_equal(labels, np.arange(12) % 3)
    drawn = splits(name)
    assert drawn.class_names == ("0", "1", "2")
    assert drawn.train.images[np.array([3, 1, 1])].shape == (3, 8, 9, 1)  # from disk, in any order
    assert choose.look(name).n == 12
    assert sources.fingerprint(name, dim=2) != sources.fingerprint(f"{tmp_path / 'file.h5'}:other", dim=2)
    with pytest.raises(avae.Mistake, match="did you mean 'raw/images'"):
        read(f"{tmp_path / 'file.h5'}:raw/image")
    with pytest.raises(avae.Mistake, match=r"it holds (raw/images, other|other, raw/images)"):
        read(tmp_path / "file.h5")


def test_zarr(tmp_path):
    group = zarr.open_group(str(tmp_path / "store.zarr"), mode="w")
    group.create_array("images", data=WHOLE)
    np.testing.assert_allclose(read(tmp_path / "store.zarr")[0][..., 0], WHOLE / 255, rtol=1e-6)
    np.testing.assert_allclose(read(f"{tmp_path / 'store.zarr'}:images")[0][..., 0], WHOLE / 255, rtol=1e-6)
    assert splits(tmp_path / "store.zarr").test.images.shape == (4, 8, 9, 1)
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(avae.Mistake, match="expected a Zarr store"):
        read(tmp_path / "empty.zarr")


def save_mrc(path, images):
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(images)
        file.set_image_stack()


@pytest.mark.parametrize("pack", [gzip, bz2])
def test_compressed_mrc(pack, tmp_path, capsys):
    save_mrc(tmp_path / "stack.mrcs", IMAGES)
    name = tmp_path / f"stack.mrcs.{'gz' if pack is gzip else 'bz2'}"
    name.write_bytes(pack.compress((tmp_path / "stack.mrcs").read_bytes()))
    np.testing.assert_allclose(read(name)[0][..., 0], standardised(IMAGES), rtol=1e-6)
    assert "all of it is read into memory" in capsys.readouterr().err
    name.write_bytes(name.read_bytes()[:100])
    with pytest.raises(avae.Mistake, match="expected an MRC stack"):
        read(name)


def test_half_precision_mrc(tmp_path):
    half = IMAGES.astype(np.float16)
    save_mrc(tmp_path / "half.mrcs", half)
    np.testing.assert_allclose(read(tmp_path / "half.mrcs")[0][..., 0], standardised(half), rtol=1e-5)


@pytest.fixture
def table(tmp_path):
    """Particles in two stacks of a project, whose table lies two folders below its root."""
    (tmp_path / "Extract").mkdir()
    (tmp_path / "Class2D" / "job3").mkdir(parents=True)
    save_mrc(tmp_path / "Extract" / "a.mrcs", IMAGES[:7])
    save_mrc(tmp_path / "Extract" / "b.mrcs", IMAGES[7:])
    names = ["000003@Extract/b.mrcs", "000001@Extract/a.mrcs", "000007@Extract/a.mrcs", "000005@Extract/b.mrcs"]
    optics = pd.DataFrame({"rlnOpticsGroup": [1], "rlnImagePixelSize": [1.5]})
    particles = pd.DataFrame({"rlnImageName": names, "rlnClassNumber": [2, 1, 1, 2], "rlnOpticsGroup": 1})
    path = tmp_path / "Class2D" / "job3" / "run_data.star"
    starfile.write({"optics": optics, "particles": particles}, path)
    return path


def test_relions_table_is_a_stack(table):
    images, labels = read(table)
    np.testing.assert_allclose(images[..., 0], standardised(IMAGES[[9, 0, 6, 11]]), rtol=1e-6)
    np.testing.assert_array_equal(labels, [2, 1, 1, 2])
    assert data.Data(str(table)).values.alone


def test_relions_table_whose_images_are_gone(table):
    (pathlib.Path(table).parents[2] / "Extract" / "b.mrcs").unlink()
    with pytest.raises(avae.Mistake, match=r"lists 1 stack\(s\) that are not there: Extract/b.mrcs"):
        read(table)
    text = table.read_text()
    table.write_text(text.replace("000007@", "000099@").replace("Extract/b.mrcs", "Extract/a.mrcs"))
    with pytest.raises(avae.Mistake, match=r"lists section 99 of Extract/a.mrcs, which has 7"):
        read(table)
    table.write_text(text.replace("000007@", "seven@"))
    with pytest.raises(avae.Mistake, match="expected images such as 000012@stack"):
        read(table)
    table.write_text("data_\n\nloop_\n_rlnMicrographName #1\nx.mrc\n")
    with pytest.raises(avae.Mistake, match="expected a table with rlnImageName"):
        read(table)
