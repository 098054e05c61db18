"""What a run depends on: its data, its model, how it is trained and what is measured."""

import contextlib
import dataclasses
import math

from avae import settings
from avae.data.described import AUTO, Data
from avae.model import Model
from avae.networks.precision import PRECISIONS
from avae.runtime.mistake import Mistake, at_least
from avae.settings import Search


@dataclasses.dataclass(frozen=True)
class Train:
    """The outer loop.

    Attributes:
      epochs: passes over the training images.
      batch_size: images per step.
      learning_rate: peak of Adam's schedule: linear warm-up, then cosine decay to a hundredth.
      warmup_steps: steps of warm-up.
      clip_norm: gradients are scaled down to this global norm.
      beta: how often the KL counts in what is trained and searched by (beta-VAE, Higgins et al. 2017). Above 1, z holds
        less, and fewer kinds of objects settle at several orientations. Losses are reported with a single KL.
      accumulate: steps whose mean gradient makes one update of the weights.
      average: decay per step of the running average of the weights that is evaluated in their place; 0 for none.
      jitter: how far, in pixels at the rim of the frame, the pose at which the encoder sees an image is from the one at
        which the decoder's picture is compared: the standard deviation of a random step along each direction. So z
        cannot hold what of a pose is finer.
      precision: in which the networks compute while training, "float32" or "bfloat16"; all else is float32.
      search: pose search inside the step, or None to train a plain VAE.
      search_every: epochs from one full search to the next, once a quarter of the steps is done. In the others each
        image's last pose is refined, beside a few fresh starts; 1 for a full search at every step.
      seed: of the weights, the order of the data and all draws.
      poses: known poses, near which alone is searched in the first quarter of the steps, and which are among the starts
        from then on: "star" for those that the data hold, or a path (`avae.data.known`); "" for none.
      start: the folder of a run whose weights are the first ones; "" for random weights.
      log_every: steps between log lines.
      checkpoint_every: steps between checkpoints.
      keep_last: how many of the newest checkpoints are kept.
      keep_best: how many are kept besides: those before which the mean training loss, since the last, was lowest.
    """

    epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 3e-3
    warmup_steps: int = 100
    clip_norm: float = 100.0
    beta: float = 1.0
    accumulate: int = 1
    average: float = 0.0
    jitter: float = 0.5
    precision: str = "float32"
    search: Search | None = settings.training(Search())
    search_every: int = 1
    seed: int = 0
    poses: str = ""
    start: str = ""
    log_every: int = 100
    checkpoint_every: int = 500
    keep_last: int = 2
    keep_best: int = 1

    def __post_init__(self) -> None:
        ones = ("epochs", "batch_size", "accumulate", "search_every", "log_every", "checkpoint_every", "keep_last")
        at_least("train", self, **dict.fromkeys(ones, 1), keep_best=0)
        if not 0 <= self.average < 1:
            raise Mistake(f"train.average: expected a decay from 0 (none) to below 1, got {self.average}")
        if self.precision not in PRECISIONS:
            raise Mistake(f"train.precision: expected one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if not 0 <= self.beta < math.inf:
            raise Mistake(f"train.beta: expected a finite weight of at least 0, got {self.beta}")
        if not (self.learning_rate > 0 and self.clip_norm > 0 and self.warmup_steps >= 0):
            raise Mistake(
                "train: expected learning_rate > 0, clip_norm > 0 and warmup_steps >= 0, got "
                f"{self.learning_rate}, {self.clip_norm} and {self.warmup_steps}"
            )


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What `eval.py` measures.

    Attributes:
      baseline_epochs: epochs of the plain VAE that `train.py` trains for comparison; 0 for none.
      draws: draws of z per image in the mean test loss.
      n_exhaustive: test images on which the exhaustive search is run.
      n_angles: angles of the exhaustive search.
      n_curve: test images behind the curve of loss against rotation angle.
      curve_step: its step in degrees.
      n_bound: test images whose log p(x) is bounded; 0 for none.
      bound_samples: draws for each bound.
    """

    baseline_epochs: int = 60
    draws: int = 8
    n_exhaustive: int = 512
    n_angles: int = 720
    n_curve: int = 256
    curve_step: int = 15
    n_bound: int = 500
    bound_samples: int = 256

    def __post_init__(self) -> None:
        least = {field.name: 1 for field in dataclasses.fields(self)}
        at_least("evaluation", self, **least | {"baseline_epochs": 0, "n_bound": 0, "bound_samples": 2})


@dataclasses.dataclass(frozen=True)
class Experiment:
    """All that a run depends on; hashable, so that it is static under `jit`."""

    data: Data
    model: Model
    train: Train
    evaluation: Evaluation

    def with_background(self, background: tuple[float, ...]) -> "Experiment":
        """The same, its `data.background` no longer "auto" but these levels; itself where they were given."""
        if self.data.background != AUTO:
            return self
        data = dataclasses.replace(self.data, background=background)
        model = self.model
        with contextlib.suppress(Mistake):  # the images hold these levels too, and are refused for it
            model = dataclasses.replace(model, background=data.outside)
        return dataclasses.replace(self, data=data, model=model)
