"""Real furniture at the 24 rotations of the cube: an AVAE and a plain VAE trained on the same turned volumes.

    python train.py --config=configs/rot_voxels.py
    python train.py --config=configs/rot_voxels.py --config.data.name=path/to/ModelNet10  # meshes of your own

`--config.data.transform.name=rotation3d --config.transform.name=rotation3d` turns and searches by any rotation instead.

A new rotation, and new proportions (`data.stretch`), are drawn each time an object is seen, for both networks: the
plain VAE is trained on augmented data.
"""

from ml_collections import ConfigDict

from avae.config import default


def get_config() -> ConfigDict:
    """500 pieces of furniture at 32^3 to train on, 100 to test."""
    config = default()
    config.data.update(name="furniture", pose="fresh", n_train=500, n_test=100, stretch=1.25)
    config.data.transform.name = "cube_rotations"
    config.transform.name = "cube_rotations"
    config.model.update(image_shape=(32, 32, 32, 1), latent=8, hidden=(64, 64))
    config.train.update(epochs=40, batch_size=50, learning_rate=1.5e-3, log_every=50, checkpoint_every=400)
    config.evaluation.update(baseline_epochs=40, n_exhaustive=25, n_angles=256, n_curve=16, curve_step=30)
    return config
