"""Which images or volumes, at which poses, in the words of a config."""

import dataclasses
import difflib
import math
from typing import Any

from avae.data import sources
from avae.data.sources import meshes
from avae.networks.values import Values
from avae.runtime.files import expanded
from avae.runtime.mistake import Mistake
from avae.transforms import Rotation, Transform
from avae.transforms.background import levels

POSES = ("fixed", "as_is", "fresh")
OLD = "upright"  # what "as_is" was called; still taken
BINARIZE = ("none", "threshold", "sample")
AUTO = "auto"


@dataclasses.dataclass(frozen=True)
class Data:
    """Which images or volumes, at which poses.

    Attributes:
      name: "digits" (a subset of MNIST), "cells" (outlines), "furniture" (voxelised models), "tfds:" and the name of a
        set of TensorFlow Datasets, or a path to a stack (.npy, .npz, .mrcs) or to a folder of images or meshes: see
        `sources.read`.
      pose: "fixed" (one random pose per image, by seed), "as_is", or "fresh" (a new random pose each
        time a training image is drawn; test images are at fixed poses).
      test_pose: the same for test images alone: "fixed" or "as_is"; "" for what `pose` says.
      transform: the family from whose prior poses are drawn; its dimension says whether the data are images or volumes.
      seed: of poses, of binarisation, and of the split where the source has none.
      n_train: training images used, at most 12,000 of the digits.
      n_test: test images used, at most 2,000 of the digits; n_train + n_test are at most the 600 of the furniture.
      binarize: "none" (grey), "threshold" at 0.5, or "sample" (each pixel drawn once, by seed, with its grey value as
        the probability): for likelihoods in nats of a distribution over binary images. After the pose.
      side: voxels along each axis of a mesh, from 8; its longest side is given 0.7 of them.
      up: the axis of meshes that points up: "y", or "z" as in ModelNet.
      stretch: every upright image is scaled along each axis by a factor of its own, log-uniform in
        [1 / stretch, stretch], before its pose (random anisotropic scaling); 1 for none, at most 4.
      background: the level outside of the upright images, a number for all channels or a tuple of one for each, or
        "auto": in each channel the median of the border pixels of the training images.
      fit: how images of several sizes in a folder come to one, "pad", "crop" or "resize" (see `sources.Fit`); "" for
        not at all.
      mean: what is taken from each value of the source, as it is read (8-bit values as fractions of 255).
      std: by what the rest is divided; 0 and 1 leave the values as they are.
      masks: whether the source holds masks of 0 and 1, so that raw 8-bit values given to the model are no fractions of
        255; None where nobody said: each batch is then looked at.
    """

    name: str = "digits"
    pose: str = "fixed"
    test_pose: str = ""
    transform: Transform = Rotation()
    seed: int = 0
    n_train: int = 12_000
    n_test: int = 2_000
    binarize: str = "none"
    side: int = 32
    up: str = "z"
    stretch: float = 1.0
    background: Any = AUTO  # or a tuple, once it is made
    fit: str = ""
    mean: float = 0.0
    std: float = 1.0
    masks: bool | None = None

    def __post_init__(self) -> None:
        for field in ("pose", "test_pose"):
            if getattr(self, field) == OLD:
                object.__setattr__(self, field, "as_is")
        for field, value, allowed in (
            ("pose", self.pose, POSES),
            ("test_pose", self.test_pose, ("", "fixed", "as_is")),
            ("binarize", self.binarize, BINARIZE),
            ("up", self.up, meshes.UPS),
            ("fit", self.fit, ("", *sources.WAYS)),
        ):
            if value not in allowed:
                names = ", ".join(name or '""' for name in allowed)
                raise Mistake(f"data.{field}: expected one of {names}, got {value!r}")
        sources.check_dim(self.name, self.transform.dim, type(self.transform).__name__)
        local = self.name not in sources.EMBEDDED and not self.name.startswith(sources.tfds.PREFIX)
        if local and difflib.get_close_matches(self.name, sources.EMBEDDED, n=1) and not expanded(self.name).exists():
            raise Mistake(sources.missing(self.name))  # other paths may be on another machine: `load` looks there
        if not isinstance(self.background, str) or self.background != AUTO:
            object.__setattr__(self, "background", levels(self.background, 'data.background (or "auto")'))
        if self.n_train < 1 or self.n_test < 1:
            raise Mistake(f"data: expected n_train and n_test of at least 1, got {self.n_train} and {self.n_test}")
        if self.side < 8:
            raise Mistake(f"data.side: expected at least 8 voxels, got {self.side}")
        if not (math.isfinite(self.mean) and 0 < self.std < math.inf):
            raise Mistake(f"data: expected a finite mean and a finite std above 0, got {self.mean} and {self.std}")
        if not 1 <= self.stretch <= 4:
            raise Mistake(f"data.stretch: expected a factor from 1 (none) to 4, got {self.stretch}")
        if self.pose == "fresh" and self.binarize != "none":
            raise Mistake('data: pose "fresh" resamples grey images at every draw and cannot be binarized beforehand')

    @property
    def values(self) -> Values | None:
        """What the reader makes of raw values in files; None for what is embedded or downloaded."""
        if self.name in sources.EMBEDDED or self.name.startswith(sources.tfds.PREFIX):
            return None
        alone = self.name.lower().endswith((*sources.mrc.SUFFIXES, *sources.star.SUFFIXES))
        return Values(self.mean, self.std, alone, self.masks)

    @property
    def outside(self) -> tuple[float, ...]:
        """The background of the images as a model sees them, after binarisation; 0 while it is not known."""
        if self.background == AUTO:
            return (0.0,)
        if self.binarize == "threshold":
            return tuple(float(level > 0.5) for level in self.background)
        return self.background
