"""Real cells as they were found: 650 outlines, at orientations that nobody gave them, searched with mirror images.

    python train.py --config=configs/cells.py

The labels are cell line and treatment, six kinds; benchmarks/rivals/cells.py asks how well the latents tell them,
beside a plain VAE, principal components and O2-VAE (docs/results.md, "Rivals"). There are no true poses, so that the
errors of orientation in the report say only how alike the cells of one kind are.
"""

from ml_collections import ConfigDict

from avae.config import default


def get_config() -> ConfigDict:
    """550 cells to train on, 100 to test; rigid poses and mirror images."""
    config = default()
    config.data.update(name="cells", pose="as_is", n_train=550, n_test=100)
    config.transform.update(name="rigid", mirror=True)
    config.data.transform.update(name="rigid", mirror=True)
    config.model.image_shape = (64, 64, 1)
    config.train.update(epochs=60, batch_size=50, search_every=4)
    config.evaluation.update(baseline_epochs=120, n_exhaustive=25, n_curve=16, n_bound=100)
    return config
