"""What is made of the raw values of images before a model sees them: what the reader of its training data made."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.core import Tracer


@dataclasses.dataclass(frozen=True)
class Values:
    """8-bit values become fractions of 255, those of masks stay 0 and 1; then each value v becomes (v - mean) / std.

    Attributes:
      mean: of the training data, in their own units.
      std: their standard deviation, or 1.
      alone: whether each image is then brought to mean 0 and standard deviation 1 of its own, as particles are.
      masks: whether 8-bit values are 0 and 1, taken as they are; None to see by the values of each batch.
    """

    mean: float = 0.0
    std: float = 1.0
    alone: bool = False
    masks: bool | None = None

    def __call__(self, x: Any) -> Any:
        """Images [B, *space, C] of any real dtype as float32; what is masked, or no number, stays so."""
        images = x if isinstance(x, jax.Array) else np.ma.asanyarray(x) if np.ma.isMaskedArray(x) else np.asarray(x)
        if images.dtype.kind not in "biuf":
            return images
        masks = self.masks if self.masks is not None or images.dtype != np.uint8 else _is_mask(images)
        scale = 255.0 if images.dtype == np.uint8 and not masks else 1.0
        with np.errstate(over="ignore", invalid="ignore"):
            images = (images.astype(np.float32) / np.float32(scale) - np.float32(self.mean)) / np.float32(self.std)
            return standardised(images) if self.alone and images.ndim > 1 else images


def _is_mask(images: Any) -> bool:
    """Whether 8-bit images hold 0 and 1 alone; readers of files take these for masks as well."""
    return images.size > 0 and not isinstance(images, Tracer) and bool(images.max() == 1)


def standardised(images: Any) -> Any:
    """Each example of [N, *space, C] with mean 0 and standard deviation 1, float32; all 0 where it is constant."""
    exact: Any = {} if isinstance(images, jax.Array) else {"dtype": np.float64}
    values, axes = images.astype(np.float32), tuple(range(1, images.ndim))
    values = values - values.mean(axis=axes, keepdims=True, **exact).astype(np.float32)
    spread = values.std(axis=axes, keepdims=True, **exact)
    return values / (spread + (spread <= 0)).astype(np.float32)
