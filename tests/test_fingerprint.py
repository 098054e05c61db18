"""The hash by which a run recognises its data: of their content, wherever they lie and whenever they were written."""

import os
import shutil

import mrcfile
import numpy as np
import pytest
from PIL import Image

from avae.data.sources import fingerprint, identity

IMAGES = np.random.default_rng(0).random((600, 4, 4)).astype(np.float32)


@pytest.fixture
def archive(tmp_path):
    def write(images=IMAGES, name="a.npz", **arrays):
        np.savez(tmp_path / name, images=images, **arrays)
        return fingerprint(str(tmp_path / name), dim=2)

    return write


def changed(row, images=IMAGES):
    images = images.copy()
    images[row, 1, 1] += 0.5
    return images


def test_it_is_that_of_the_content(archive, tmp_path):
    first = archive()
    assert len(first) == 16
    assert int(first, 16) >= 0
    os.utime(tmp_path / "a.npz", ns=(1, 1))
    assert fingerprint(str(tmp_path / "a.npz"), dim=2) == first
    assert archive(name="elsewhere.npz") == first


@pytest.mark.parametrize("row", [0, 599])
def test_it_changes_with_a_pixel(archive, row):
    assert archive(changed(row)) != archive()


def test_it_reads_a_sample(archive):
    sampled = identity._sample(len(IMAGES))
    assert len(sampled) == identity.SAMPLED
    unread = np.setdiff1d(np.arange(len(IMAGES)), sampled)[0]
    assert archive(changed(unread)) == archive()
    assert identity._sample(3).tolist() == [0, 1, 2]


def test_it_changes_with_number_kind_and_labels(archive):
    labels = np.arange(600) % 3
    others = [
        archive(),
        archive(IMAGES[:-1]),
        archive(IMAGES.astype(np.float64)),
        archive(IMAGES.reshape(600, 2, 8)),
        archive(labels=labels),
        archive(labels=np.where(np.arange(600) == 300, 9, labels)),
        archive(labels=labels.astype(str)[::-1]),
    ]
    assert len(set(others)) == len(others)


def test_a_split_is_told_from_one_stack(archive, tmp_path):
    np.savez(tmp_path / "split.npz", train_images=IMAGES, test_images=IMAGES[:5])
    one = fingerprint(str(tmp_path / "split.npz"), dim=2)
    np.savez(tmp_path / "split.npz", train_images=IMAGES, test_images=changed(3, IMAGES[:5]))
    assert len({one, fingerprint(str(tmp_path / "split.npz"), dim=2), archive()}) == 3


def test_stacks_on_disk(tmp_path):
    np.save(tmp_path / "a.npy", IMAGES)
    first = fingerprint(str(tmp_path / "a.npy"), dim=2)
    np.save(tmp_path / "a.npy", changed(599))
    assert fingerprint(str(tmp_path / "a.npy"), dim=2) != first
    with mrcfile.new(tmp_path / "a.mrcs") as file:
        file.set_data(IMAGES)
        file.set_image_stack()
    assert len(fingerprint(str(tmp_path / "a.mrcs"), dim=2)) == 16


def test_a_folder(tmp_path):
    root = tmp_path / "images"
    for i in range(5):
        path = root / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((5, 4), 10 * i, np.uint8)).save(path)
    first = fingerprint(str(root), dim=2)
    os.utime(root / "a" / "0.png", ns=(1, 1))
    root = shutil.move(root, tmp_path / "moved")
    assert fingerprint(str(root), dim=2) == first
    (root / "a" / "0.png").rename(root / "b" / "0.png")
    renamed = fingerprint(str(root), dim=2)
    pixels = np.full((5, 4), 40, np.uint8)
    pixels[0, 0] = 41
    Image.fromarray(pixels).save(root / "a" / "4.png")
    assert len({first, renamed, fingerprint(str(root), dim=2)}) == 3


def test_embedded_and_missing_sources(tmp_path):
    assert fingerprint("digits", dim=2) == fingerprint("digits", dim=2) != fingerprint("furniture", dim=3)
    with pytest.raises(ValueError, match="the digits are images"):
        fingerprint("digits", dim=3)
    with pytest.raises(ValueError, match="nothing is at"):
        fingerprint(str(tmp_path / "x.npy"), dim=2)
