"""Volumes whose voxels are not cubes: a turn is one in millimetres. NIfTI and MRC say how long a voxel is."""

import dataclasses

import jax
import jax.numpy as jnp
import mrcfile
import nibabel
import numpy as np
import pytest
from scipy.spatial.transform import Rotation as Turn

import avae
from avae import choose, cli
from avae.config import experiment
from avae.data import sources
from avae.poses import images, table

BLOBS = (((-4, 0, 0), 2.2, 1.0), ((3, 2, 0), 1.6, 0.8), ((0, -2, 4), 1.6, 0.9))
TURNS = [Turn.from_rotvec(np.radians(degrees) * np.array([0, 1, 0])) for degrees in (0, 30, 90)]


def sample(spacing, sizes, turn):
    """An object of three blobs as turned in space; sizes and voxels are along z, y, x."""
    axes = [(np.arange(m) - (m - 1) / 2) * s for m, s in zip(sizes, spacing, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    points = np.stack([x, y, z], -1) @ turn.as_matrix()
    return sum(a * np.exp(-((points - np.array(c)) ** 2).sum(-1) / (2 * w**2)) for c, w, a in BLOBS).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Object:
    """A decoder that is the object itself."""

    image_shape: tuple
    latent: int = 1

    def encode(self, weights, x):
        return jnp.zeros(1), jnp.zeros(1)

    def decode(self, weights, z):
        return weights


def test_turns_are_found_in_millimetres():
    """Slices twice as thick, sampled by NumPy; taken as cubes, turns come out wrong by more than 10 degrees."""
    spacing, sizes, family = (2, 1, 1), (10, 20, 20), avae.Rigid3D(spacing=(1, 1, 2))
    model = avae.Model(Object((*sizes, 1)), avae.Gaussian(0.1), family)
    params = avae.Params(jnp.asarray(sample(spacing, sizes, Turn.identity())[..., None]), model)
    x = np.stack([sample(spacing, sizes, turn) for turn in TURNS])[..., None]
    poses = avae.align(params, x, search={"n_starts": 128, "top_k": 4, "n_refined": 2, "n_steps": 6, "n_settle": 0})
    turns = [Turn.from_quat(np.roll(np.asarray(alpha[:4]), -1)) for alpha in poses.alpha]
    off = [np.degrees((turn * true.inv()).magnitude()) for turn, true in zip(turns, TURNS, strict=True)]
    assert max(off) < 5
    upright = np.asarray(avae.warp(x, poses.matrix))
    assert np.abs(upright - x[:1]).max() < 0.25
    rows = np.zeros(3, table.dtype(family, 1))
    rows["matrix"], rows["alpha"], rows["finite"] = poses.matrix, poses.alpha, True
    columns = table.columns(rows, family, sizes)
    np.testing.assert_allclose(np.abs(columns["turn_y_deg"]), [0, 30, 90], atol=5)
    np.testing.assert_allclose(columns["scale"], 1, atol=1e-5)


@pytest.mark.parametrize("family", [avae.Rotation3D, avae.Affine3D])
def test_the_pull_map_is_that_of_cubes_between_two_scalings(family):
    alpha = family().starts(5)[3]
    cubes, thick = np.asarray(family().matrix(alpha)), np.asarray(family(spacing=(1, 0.5, 3)).matrix(alpha))
    s = np.diag([1, 0.5, 3])
    np.testing.assert_allclose(thick[:, :3], np.linalg.inv(s) @ cubes[:, :3] @ s, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(thick[:, 3], cubes[:, 3])
    assert hash(family(spacing=[1, 2, 1])) == hash(family(spacing=(1.0, 2.0, 1.0)))
    mirrored = avae.Mirrored(family(spacing=(1, 0.5, 3)))
    back = jax.jit(mirrored.inverse)(jnp.concatenate([jnp.ones(1), alpha]))
    there = mirrored.matrix(jnp.concatenate([jnp.ones(1), alpha]))
    np.testing.assert_allclose(back[:, :3] @ there[:, :3], np.eye(3), atol=1e-5)


@pytest.mark.parametrize("spacing", [(1, 1), (1, 1, 0), (1, np.nan, 1), ("a", 1, 1)])
def test_lengths_that_are_none_are_refused(spacing):
    with pytest.raises(avae.Mistake, match="spacing: expected three finite lengths above 0"):
        avae.Rotation3D(spacing=spacing)


VOLUMES = (100 * np.random.default_rng(0).random((6, 4, 6, 8))).astype(np.int16)  # [N, z, y, x]


def nifti(path, volume, zooms, dtype=None):
    image = nibabel.Nifti1Image(volume, np.diag([*zooms[:3], 1]), dtype=dtype)
    image.header.set_zooms(zooms)
    nibabel.save(image, path)


def test_a_folder_of_nifti_volumes(tmp_path, capsys):
    for k, volume in enumerate(VOLUMES):
        nifti(tmp_path / f"{k}.nii{'.gz' * (k % 2)}", volume.T, (1, 1, 2.5))
    seen = choose.look(str(tmp_path))
    assert (seen.dim, seen.n, seen.shape, seen.dtype) == (3, 6, (4, 6, 8, 1), "int16")
    config, _ = choose.chosen(seen)
    assert config.transform.spacing == config.data.transform.spacing == (1, 1, 2.5)
    assert experiment(config).model.transform == avae.Rotation3D(spacing=(1, 1, 2.5))
    stack = sources.stored(str(tmp_path), 3)[0]
    np.testing.assert_array_equal(stack.images[:][..., 0], VOLUMES)
    assert stack.names.tolist() == ["0.nii", "1.nii.gz", "2.nii", "3.nii.gz", "4.nii", "5.nii.gz"]
    raw = sources.read(str(tmp_path), dim=3, n_train=4, n_test=2)
    assert raw.train_images[:].dtype == np.float32
    assert len(sources.fingerprint(str(tmp_path), dim=3)) == 16
    cli.main(["inspect", str(tmp_path)])
    assert "transform.spacing" in capsys.readouterr().out
    images.check_spacing(stack, avae.Rotation3D())
    assert "voxels of (1.0, 1.0, 2.5) along x, y, z, but the run turns those of" in capsys.readouterr().err
    images.check_spacing(stack, avae.Rotation3D(spacing=(2, 2, 5)))
    assert capsys.readouterr().err == ""
    nifti(tmp_path / "z.nii", VOLUMES[0].T, (1, 1, 3))
    with pytest.raises(avae.Mistake, match="expected volumes of one shape, dtype and voxel size"):
        choose.look(str(tmp_path))


def test_a_nifti_file_of_times_with_a_slope(tmp_path):
    nifti(tmp_path / "times.nii.gz", 0.37 * VOLUMES.T, (2, 2, 2, 1.5), np.int16)  # which nibabel scales
    stored = np.asarray(nibabel.load(tmp_path / "times.nii.gz").dataobj)
    stack = sources.stored(str(tmp_path / "times.nii.gz"), 3)[0]
    assert (stack.images.shape, stack.images.dtype, stack.spacing) == ((6, 4, 6, 8, 1), np.float32, (2, 2, 2))
    np.testing.assert_allclose(stack.images[np.array([4, 1])][..., 0], stored.T[[4, 1]], rtol=1e-6)
    assert choose.look(str(tmp_path / "times.nii.gz")).dim == 3
    nifti(tmp_path / "one.nii", VOLUMES[0].T, (1, 1, 1))
    with pytest.raises(avae.Mistake, match=r"expected .*one.nii to hold volumes \[x, y, z, t\]"):
        sources.stored(str(tmp_path / "one.nii"), 3)
    (tmp_path / "bad.nii").write_bytes(b"no header")
    with pytest.raises(avae.Mistake, match=r"expected a NIfTI file, but .*bad.nii cannot be read"):
        sources.stored(str(tmp_path / "bad.nii"), 3)


def test_mrc_volumes_say_how_long_a_voxel_is(tmp_path, capsys):
    with mrcfile.new(tmp_path / "stack.mrcs") as file:
        file.set_data(VOLUMES.astype(np.float32))
        assert file.is_volume_stack()
        file.voxel_size = (1.5, 1.5, 3)
    seen = choose.look(str(tmp_path / "stack.mrcs"))
    np.testing.assert_allclose(seen.spacing, (1.5, 1.5, 3), rtol=1e-5)
    assert choose.chosen(seen)[0].transform.spacing == (1, 1, 2)
    assert "taken as equal" not in capsys.readouterr().err


def test_families_that_take_voxels_as_cubes_say_so(tmp_path):
    np.save(tmp_path / "volumes.npy", VOLUMES.astype(np.float32))
    seen = choose.look(str(tmp_path / "volumes.npy"))
    config, _ = choose.chosen(seen, {"spacing": (1, 1, 2), "transform": "cube_rotations"})
    with pytest.raises(avae.Mistake, match=r"transform.spacing: expected equal lengths for cube_rotations"):
        experiment(config)
