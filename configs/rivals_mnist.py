"""The protocol of published rivals: two latents, 12,000 rotated digits, 480 seconds of one processor core for training.

    taskset -c 0 python train.py --config=configs/rivals_mnist.py

The digits are rotated only; the search also tries scales, shears and shifts in a small range, so that a slanted hand is
a pose and not a latent. `epochs` fill the 480 seconds, compilation included, on the machine of docs/results.md;
"cpu_seconds" in metrics.jsonl says what they took on yours.
"""

from ml_collections import ConfigDict

from avae.config import default


def get_config() -> ConfigDict:
    """The main job with two latents, a narrower network, affine poses and pose memory."""
    config = default()
    config.model.update(latent=2, hidden=(128, 128))
    config.transform.update(name="affine", max_scale=1.25, max_shear=0.5, max_shift=0.1)
    config.search.update(n_starts=128, top_k=4, n_steps=6)
    config.train.update(epochs=38, search_every=5)
    config.train.search.update(n_starts=32)
    config.evaluation.update(
        baseline_epochs=0, n_exhaustive=128, n_angles=4096, n_curve=64, curve_step=30, n_bound=2000
    )
    return config
