"""One image file as stored numbers: depth, polarity, palettes, transparency, orientation, and what is refused."""

import sys
import types
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps, PngImagePlugin

from avae.data import sources
from avae.data.sources import folders, image_files

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 4), np.uint8)
COLOUR = RNG.integers(0, 256, (5, 4, 3), np.uint8)


def pixels(path):
    """The stored numbers, which are of the kind that the header promised."""
    with folders._opened(path) as picture:
        kind = picture.kind
    image = folders._pixels(path)
    assert (image.shape, image.dtype.name) == (kind.shape, kind.dtype)
    return image


def tiff(path, array, **settings):
    tifffile.imwrite(path, array, **settings)
    return pixels(path)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.tif"


# --- TIFF -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8"])
def test_every_kind_of_number_keeps_its_value(path, dtype, order, bigtiff):
    limits = np.finfo(dtype) if dtype[0] == "f" else np.iinfo(dtype)
    array = np.linspace(float(limits.min) / 3, float(limits.max) / 3, 20).astype(dtype).reshape(5, 4)
    found = tiff(path, array, byteorder=order, bigtiff=bigtiff, photometric="minisblack")
    np.testing.assert_array_equal(found[..., 0], array)
    assert found.dtype.isnative


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("extra", [[], ["unassalpha"], ["unspecified"]])
def test_colours_of_every_depth(path, dtype, planar, extra):
    array = RNG.integers(0, np.iinfo(dtype).max, (5, 4, 3 + len(extra)), dtype)
    stored = np.moveaxis(array, -1, 0) if planar == "separate" else array
    found = tiff(path, stored, photometric="rgb", planarconfig=planar, extrasamples=extra)
    np.testing.assert_array_equal(found, array)
    with folders._opened(path) as picture:
        assert picture.kind.alpha == (extra == ["unassalpha"])


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.int8, np.int16])
def test_zero_may_be_white(path, dtype):
    array = RNG.integers(0, 2, (5, 4)).astype(bool) if dtype is bool else GREY.astype(dtype)
    black = tiff(path, array, photometric="minisblack")
    white = tiff(path, array, photometric="miniswhite")
    np.testing.assert_array_equal(black[..., 0], array)
    top, bottom = (1, 0) if dtype is bool else (np.iinfo(dtype).max, np.iinfo(dtype).min)
    np.testing.assert_array_equal(white.astype(int), top + bottom - black.astype(int))


def test_real_numbers_with_a_white_zero_are_refused(path):
    with pytest.raises(ValueError, match=r"zero is white .*no number black"):
        tiff(path, GREY.astype(np.float32), photometric="miniswhite")


@pytest.mark.parametrize(("unit", "dtype"), [(257, np.uint8), (256, np.uint8), (1, np.uint16)])
def test_palettes_keep_their_depth(path, unit, dtype):
    colours = RNG.integers(0, 256, (3, 256)).astype(np.uint16) * unit
    found = tiff(path, GREY, photometric="palette", colormap=colours)
    np.testing.assert_array_equal(found, (colours // unit).T[GREY].astype(dtype))


def test_colours_multiplied_by_alpha_are_divided(path):
    straight = np.uint8([[[200, 100, 50, 255], [200, 100, 50, 51], [0, 0, 0, 0]]])
    stored = straight.copy()
    stored[..., :3] = np.round(straight[..., :3] * (straight[..., 3:] / 255))
    np.testing.assert_array_equal(tiff(path, stored, photometric="rgb", extrasamples=["assocalpha"]), straight)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "lzw.tif"])
def test_orientation_is_honoured(tmp_path, orientation, suffix):
    path = tmp_path / f"a.{suffix}"
    image = Image.fromarray(np.kron(np.arange(20, dtype=np.uint8).reshape(5, 4) * 12, np.ones((8, 8), np.uint8)))
    exif = image.getexif()
    exif[274] = orientation
    options = {"exif": exif} if "tif" not in suffix else {"tiffinfo": {274: orientation}}
    image.save(path, **options, **({"compression": "tiff_lzw"} if "lzw" in suffix else {}))
    image.info["exif"] = exif.tobytes()
    expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_allclose(pixels(path)[..., 0].astype(int), expected, atol=4 * (suffix == "jpg"))


@pytest.mark.parametrize(
    "array",
    [GREY, GREY > 99, COLOUR, GREY.astype(np.uint16) * 200, GREY.astype(np.float32)],
    ids=lambda a: str(a.dtype),
)
def test_compressed_files_are_left_to_pillow(path, array):
    Image.fromarray(array).save(path, compression="tiff_lzw")
    np.testing.assert_array_equal(pixels(path), array if array.ndim == 3 else array[..., None])


def test_a_compressed_white_zero_of_sixteen_bits(path):
    array = GREY.astype(np.uint16) * 200
    Image.fromarray(array).save(path, compression="tiff_lzw", tiffinfo={262: 0})
    with tifffile.TiffFile(path) as file:
        assert file.pages.first.photometric == tifffile.PHOTOMETRIC.MINISWHITE
    np.testing.assert_array_equal(pixels(path)[..., 0], 65535 - array)


@pytest.mark.parametrize("bits", [2, 4])
def test_few_bits_fill_the_range_of_eight(path, bits):
    array = GREY % 2**bits
    packed = np.packbits(np.unpackbits(array[..., None], axis=2)[..., -bits:].reshape(5, -1), axis=1)
    Image.fromarray(GREY).save(path)
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        tags = {code: page.tags[code].valueoffset for code in (258, 279)}
        start = page.dataoffsets[0]
    content[tags[258] : tags[258] + 2] = bits.to_bytes(2, "little")
    content[tags[279] : tags[279] + 4] = packed.size.to_bytes(4, "little")
    content[start : start + packed.size] = packed.tobytes()
    path.write_bytes(content)
    np.testing.assert_array_equal(pixels(path)[..., 0], array * (255 // (2**bits - 1)))


def test_what_cannot_be_kept_is_refused_by_name(path):
    array = RNG.integers(0, 65536, (8, 16, 16, 4), np.uint16)
    with pytest.raises(ValueError, match="8 pages"):
        tiff(path, array[..., 0])
    with pytest.raises(ValueError, match="16 bits of SEPARATED; save it as grey or RGB"):
        tiff(path, array[0], photometric="separated")
    Image.fromarray(GREY).convert("CMYK").save(path)
    assert pixels(path).shape == (5, 4, 3)


# --- PNG and JPEG ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "transparent", "expected"),
    [
        ("1", 0, "LA"),
        ("L", 7, "LA"),
        ("P", 0, "RGBA"),
        ("RGB", (7, 7, 7), "RGBA"),
        ("LA", None, "LA"),
        ("P", None, "RGB"),
    ],
)
def test_transparency_becomes_a_channel(tmp_path, mode, transparent, expected):
    image = Image.fromarray(np.uint8([[7, 200], [200, 7]])).convert(mode)
    image.save(tmp_path / "a.png", **({} if transparent is None else {"transparency": transparent}))
    with Image.open(tmp_path / "a.png") as saved:
        np.testing.assert_array_equal(pixels(tmp_path / "a.png"), np.asarray(saved.convert(expected)))
    if transparent is not None and mode != "P":
        assert set(np.unique(pixels(tmp_path / "a.png")[..., -1])) == {0, 255}


def test_transparency_of_sixteen_bits(tmp_path):
    array = np.uint16([[0, 500], [7, 65535]])
    Image.fromarray(array).save(tmp_path / "a.png", transparency=500)
    np.testing.assert_array_equal(
        pixels(tmp_path / "a.png"), np.stack([array, np.uint16([[65535, 0], [65535, 65535]])], -1)
    )


def deep_png(path, array):
    """A PNG of 16-bit channels [H, W, C], without filters."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        size = array.shape[1].to_bytes(4, "big") + array.shape[0].to_bytes(4, "big")
        PngImagePlugin.putchunk(file, b"IHDR", size, bytes([16, {2: 4, 3: 2, 4: 6}[array.shape[2]], 0, 0, 0]))
        PngImagePlugin.putchunk(file, b"IDAT", zlib.compress(rows))
        PngImagePlugin.putchunk(file, b"IEND", b"")


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_sixteen_bits_a_channel_are_not_cut(tmp_path, monkeypatch, channels):
    array = RNG.integers(0, 1000, (5, 4, channels), np.uint16)
    deep_png(tmp_path / "a.png", array)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(ValueError, match=r'which Pillow cuts to 8; pip install "avae\[codecs\]" reads it'):
        pixels(tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "imagecodecs", types.SimpleNamespace(png_decode=lambda content: array))
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), array)


# --- folders of them ------------------------------------------------------------------------------------------------


def read(root, write, images):
    """What a folder of these images gives [N, H, W, C], in their order."""
    root.mkdir()
    for i, image in enumerate(images):
        write(root / f"{i}.tif", image)
    raw = sources.read(str(root), dim=2, n_train=len(images) - 1, n_test=1)
    rows = np.random.default_rng(0).permutation(len(images))
    return np.concatenate([raw.test_images[:], raw.train_images[:]])[np.argsort(rows)]


def test_masks_of_eight_bits_are_0_and_1(tmp_path, capsys):
    masks = (RNG.random((6, 5, 4)) > 0.5).astype(np.uint8)
    np.testing.assert_array_equal(read(tmp_path / "a", tifffile.imwrite, masks)[..., 0], masks)
    assert "8-bit values of 0 and 1 alone are taken as 0 and 1" in capsys.readouterr().err


def test_alpha_is_scaled_by_itself(tmp_path, capsys):
    images = RNG.integers(100, 1000, (6, 5, 4, 4), np.uint16)
    images[..., 3] = RNG.choice([0, 65535], (6, 5, 4))
    images[0, 0, 0, :2] = 100, 999

    def write(path, image):
        tifffile.imwrite(path, image, photometric="rgb", extrasamples=["unassalpha"])

    found = read(tmp_path / "a", write, images)
    np.testing.assert_allclose(found[..., :3], (images[..., :3] - 100.0) / 899, atol=1e-6)
    np.testing.assert_array_equal(found[..., 3], images[..., 3] / 65535)
    assert "values from 100 to 999" in capsys.readouterr().err


def test_pixels_that_are_not_square_are_named(tmp_path, capsys):
    read(tmp_path / "a", lambda path, image: tifffile.imwrite(path, image, resolution=(300, 200)), [GREY] * 3)
    assert "3 file(s) with pixels that are not square, taken as square: 0.tif, 1.tif, 2.tif" in capsys.readouterr().err
    read(tmp_path / "b", lambda path, image: tifffile.imwrite(path, image, resolution=(300, 300)), [GREY] * 3)
    assert "square" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("channels", "dtype", "alpha", "words"),
    [
        (1, "bool", False, "1-bit grey"),
        (2, "uint8", True, "8-bit grey with alpha"),
        (4, "uint16", True, "16-bit colour with alpha"),
        (1, "int8", False, "signed 8-bit grey"),
        (3, "float64", False, "real 64-bit colour"),
        (2, "uint8", False, "8-bit 2 channels"),
    ],
)
def test_kinds_are_named(channels, dtype, alpha, words):
    assert str(image_files.Kind((5, 4, channels), dtype, alpha)) == f"4x5 {words}"
