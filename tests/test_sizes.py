"""Images of several sizes brought to one: padded, cropped, resized."""

import numpy as np
import pytest
from PIL import Image
from skimage.transform import resize
from template import SIDE, picture, turned

import avae
from avae import choose, cli
from avae.data import dataset, sources
from avae.data.described import Data
from avae.data.sources.fit import Fit

INK = (255 * turned(picture(), np.arange(12) * 30.0)[..., 0]).astype(np.uint8)


@pytest.fixture
def mixed(tmp_path):
    """Twelve images: nine of 20 x 20, two of 24 x 20 (rows first) and one of 22 x 26, each with its own background."""
    path = tmp_path / "mixed"
    path.mkdir()
    for k, image in enumerate(INK):
        rows, columns = {0: (4, 0), 1: (4, 0), 2: (2, 6)}.get(k, (0, 0))
        widths = [(rows // 2, rows // 2), (columns // 2, columns // 2)]
        Image.fromarray(np.pad(image, widths, constant_values=0)).save(path / f"{k:02d}.png")
    return path


def test_sizes_are_counted_and_the_way_out_is_named(mixed):
    with pytest.raises(avae.Mistake, match=r"got 9 of 20x20 8-bit grey, 2 of 20x24 .*; --fit pad, crop or resize"):
        choose.look(str(mixed))
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(mixed / "colour.png")
    with pytest.raises(avae.Mistake, match=r"20x20 8-bit colour$"):
        choose.look(str(mixed))
    with pytest.raises(avae.Mistake, match=r"20x20 8-bit colour$"):
        choose.look(str(mixed), "pad")


@pytest.mark.parametrize(("how", "shape"), [("pad", (24, 26)), ("crop", (20, 20)), ("resize", (20, 20))])
def test_folders_come_to_one_size(mixed, how, shape):
    seen = choose.look(str(mixed), how)
    assert seen.shape == (*shape, 1)
    config, _ = choose.chosen(seen)
    assert (config.data.fit, config.model.image_shape) == (how, (*shape, 1))
    raw = sources.read(str(mixed), dim=2, n_train=10, n_test=2, fit=Fit(how))
    assert raw.train_images.shape == (10, *shape, 1)
    assert dataset.load(Data(str(mixed), fit=how, n_train=10, n_test=2, pose="as_is")).train.images.shape[1:3] == shape
    stack = sources.stored(str(mixed), 2, fit=Fit(how))[0].images
    if how != "resize":
        middle = tuple(slice((side - 20) // 2, (side - 20) // 2 + 20) for side in shape)
        np.testing.assert_array_equal(stack[:, *middle, 0], INK)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, bool])
def test_a_resized_image_is_that_of_skimage_within_a_padded_frame(dtype):
    image = (INK[0] / (1 if dtype == np.uint8 else 255) > (0.5 if dtype is bool else -1)) * INK[0]
    image = (image > 100) if dtype is bool else image.astype(dtype)
    wide = np.concatenate([image, image], axis=1)[..., None]  # 20 x 40
    small = Fit("resize").image(wide, (12, 12))
    assert (small.dtype, small.shape) == (wide.dtype, (12, 12, 1))
    theirs = resize(wide[..., 0].astype(np.float64), (6, 12), order=1, anti_aliasing=True)
    theirs = theirs > 0.5 if dtype is bool else theirs
    assert np.abs(small[3:9, :, 0] - theirs.astype(np.float64)).mean() < (0.2 if dtype is bool else 0.06 * image.max())
    assert (small[:3] == 0).all()


def test_padding_is_at_the_border_of_each_channel_and_volumes_are_padded_too():
    colour = np.full((4, 5, 2), [7, 9], np.int16)
    colour[2, 2] = 100
    padded = Fit("pad").image(colour, (6, 8))
    np.testing.assert_array_equal(padded[1:5, 1:6], colour)
    assert (padded[0] == [7, 9]).all()
    volume = np.random.default_rng(0).random((4, 6, 5, 1)).astype(np.float32)
    assert Fit("resize").image(volume, (8, 8, 8)).shape == (8, 8, 8, 1)
    np.testing.assert_array_equal(Fit("crop").image(volume, (2, 6, 3)), volume[1:3, :, 1:4])


def test_labels_are_resized_by_the_nearest_pixel():
    labels = np.zeros((6, 6, 1), np.uint8)
    labels[:, 3:] = 9
    assert set(np.unique(Fit("resize", labels=True).image(labels, (16, 16)))) == {0, 9}


def test_a_stack_of_another_size_than_the_run(tmp_path, capsys):
    np.save(tmp_path / "own.npy", INK / np.float32(255))
    short = ["--epochs=1", "--latent=2", "--batch-size=4", "--transform=rotation", "--set", "model.hidden=(16,)"]
    cli.main(["train", str(tmp_path / "own.npy"), "--out", str(tmp_path / "run"), *short])
    np.save(tmp_path / "large.npy", np.pad(INK[:3], ((0, 0), (2, 2), (3, 3))) / np.float32(255))
    align = ["align", str(tmp_path / "run"), str(tmp_path / "large.npy"), "--out"]
    with pytest.raises(SystemExit):
        cli.main([*align, str(tmp_path / "poses")])
    assert "got (24, 26, 1); --fit pad, crop or resize" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main([*align, str(tmp_path / "poses"), "--fit=pad"])
    assert "--fit pad: expected images of at most (20, 20), got (24, 26)" in capsys.readouterr().err
    cli.main([*align, str(tmp_path / "poses"), "--fit=crop"])
    assert np.load(tmp_path / "poses" / "aligned.npy").shape == (3, SIDE, SIDE)
