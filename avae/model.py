"""`Model`, the static description of an AVAE, and `Params`, its weights with the model they belong to."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from avae.networks.mask import Mask, check_mask, observed, present_means
from avae.networks.pose_network import Beside
from avae.networks.precision import Cast
from avae.networks.vae import MLP, Bernoulli, Posterior, Weights, block_means
from avae.networks.values import Values
from avae.runtime.mistake import Mistake
from avae.settings import Search
from avae.transforms import Rotation, Transform, check_family
from avae.transforms.background import check_channels, levels
from avae.transforms.frame import Frame
from avae.transforms.warp import warp_one


@dataclasses.dataclass(frozen=True)
class Model:
    """The static part of an AVAE; hashable, so that `jit` compiles once per model.

    Attributes:
      networks: object with `encode(weights, x) -> (mu, logvar)` and `decode(weights, z) -> raw output`, each for
        one example; `avae.MLP`, `avae.Conv`, or your own.
      likelihood: `avae.Bernoulli` or `avae.Gaussian`: how raw output explains pixels.
      transform: the family of poses that is searched.
      search: default search settings; None for the family's own.
      frame: the canonical frame; `networks.image_shape` is its shape.
      background: the level outside of the images, for all channels or one for each (`avae.estimate_background`); both
        warps fill with it what they do not find in the frame.
      mask: an `avae.Mask`, how often each pixel of an image counts in the likelihood; None for once each.
      missing: whether pixels may be NaN, which means missing; functions that are given a masked array set it.
      pose_network: an `avae.PoseNetwork` that proposes poses, or None; its weights are beside those of the networks.
      values: what is made of raw values at the door, as the reader of the training data did; None for nothing.
    """

    networks: Any = MLP()
    likelihood: Any = Bernoulli()
    transform: Transform = Rotation()
    search: Search | None = None
    frame: Frame = Frame()
    pose_network: Any = None
    background: Any = (0.0,)  # always a tuple, once it is made
    mask: Mask | None = None
    missing: bool = False
    values: Values | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.transform, Transform):
            raise Mistake(f"transform: expected a family such as avae.Rotation(), got {self.transform!r}")
        check_family(self.transform)
        shape, dim = getattr(self.networks, "image_shape", None), self.transform.dim
        if shape and len(shape) != dim + 1:
            raise Mistake(
                f"transform: {type(self.transform).__name__} poses data of dimension {dim}, "
                f"but the networks take examples of shape {tuple(shape)}, channels last"
            )
        if self.image_shape is None and self.frame != Frame():
            raise Mistake("frame: a canonical frame of its own expects networks with an `image_shape`")
        object.__setattr__(self, "background", levels(self.background))
        self._check_background()
        self._check_mask()
        if self.pose_network is not None:
            sides = self.image_shape[:-1] if self.image_shape else ()
            if not sides or any(side % self.pose_network.coarse for side in sides):
                raise Mistake(
                    "pose_network: expected networks with an `image_shape`, with sides divisible by "
                    f"pose_network.coarse, {self.pose_network.coarse}, got sides {sides}"
                )

    @property
    def image_shape(self) -> tuple[int, ...] | None:
        """The images that the model takes [*space, C]; None if the networks do not say."""
        shape = getattr(self.networks, "image_shape", None)
        return self.frame.image_shape(tuple(shape)) if shape else None

    def to_canonical(self, x: Array, transform: Transform, alpha: Array) -> Array:
        """tau_alpha x: one image [*space, C], at any resolution, in the canonical frame."""
        pull, out = transform.matrix(alpha), self._space(x)
        x, _ = self.observed(x)
        pull = pull.at[:, :-1].multiply(self._extent)
        on_grid = transform.on_grid and self._aligned(x.shape[:-1], out)
        return warp_one(x, pull, out, outside=self.background, on_grid=on_grid)

    def from_canonical(self, y: Array, transform: Transform, alpha: Array, out: tuple[int, ...]) -> Array:
        """tau_alpha^-1 y: one picture of the canonical frame [*space, C] in the frame of the image, of shape `out`."""
        pull = transform.inverse(alpha) / self._extent
        on_grid = transform.on_grid and self._aligned(out, y.shape[:-1])
        return warp_one(y, pull, out, outside=self.background, on_grid=on_grid)

    def _space(self, x: Array) -> tuple[int, ...]:
        """The canonical frame's shape, by default that of the image at hand."""
        return tuple((getattr(self.networks, "image_shape", None) or x.shape)[:-1])

    def _aligned(self, image: tuple[int, ...], canonical: tuple[int, ...]) -> bool:
        """Whether the two frames have pixels of one size, and quarter turns of each take pixels to pixels."""
        margins = {side - 2 * self.frame.margin for side in canonical}
        return margins == set(image) and len({side % 2 for side in image}) == 1

    def reducible(self, factor: int) -> bool:
        """Whether the networks have a form for images at a `factor`-th of the resolution, in whole pixels."""
        if self.image_shape is None or not callable(getattr(self.networks, "reduced", None)):
            return False
        return not any(size % factor for size in (*self.image_shape[:-1], self.frame.margin))

    @property
    def _extent(self) -> float:
        """Half the shorter side of the canonical frame, in half-widths of the image."""
        return 1.0 if self.image_shape is None else 1 + 2 * self.frame.margin / min(self.image_shape[:-1])

    def _check_background(self) -> None:
        if self.image_shape:
            check_channels(self.background, self.image_shape[-1])
        if any(self.background) and (problem := self.likelihood.check(np.array(self.background, np.float32))):
            raise Mistake(f"background: expected {problem}")

    def _check_mask(self) -> None:
        if self.mask is not None and not isinstance(self.mask, Mask):
            raise Mistake(f"mask: expected an avae.Mask or None, got {type(self.mask).__name__}; see avae.Mask.of")
        if self.mask is not None and self.image_shape:
            check_mask(self.mask, self.image_shape)
        if self.mask is not None or self.missing:
            for method in (self.likelihood.log_prob, self.likelihood.log_prob_raw):
                if "weight" not in inspect.signature(method).parameters:
                    raise Mistake(
                        f"likelihood: masks and missing pixels expect {method.__name__}(weights, x, mean, weight), but "
                        f"that of {type(self.likelihood).__name__} takes no `weight`, how often each pixel counts"
                    )

    def observed(self, x: Array) -> tuple[Array, Array | None]:
        """One image [*space, C], missing pixels at the background, and how often each pixel counts; None: once."""
        weight = None if self.mask is None else jnp.asarray(self.mask.weights, x.dtype)
        if not self.missing:
            return x, weight
        pixels, present = observed(x, self.background)
        return pixels, present if weight is None else present * weight

    def reduce(self, x: Array, factor: int) -> Array:
        """One image [*space, C] at a `factor`-th of its resolution, for `Params.reduced`."""
        return present_means(x, factor) if self.missing else block_means(x, factor)

    def log_prob(self, weights: Weights, x: Array, mean: Array) -> Array:
        """Log p(x | mean) in nats of what is observed of one image; for a mean that went through a warp."""
        return self.likelihood.log_prob(weights, *self._compared(x, mean))

    def log_prob_raw(self, weights: Weights, x: Array, raw: Array) -> Array:
        """The same from raw output, where no warp intervenes."""
        return self.likelihood.log_prob_raw(weights, *self._compared(x, raw))

    def fisher(self, weights: Weights, x: Array, mean: Array) -> Array:
        """Fisher information of each pixel's mean [*space, C] in what is observed of one image x."""
        information, weight = self.likelihood.fisher(weights, mean), self.observed(x)[1]
        if getattr(self.likelihood, "gain", 0):
            information = information * self.likelihood.brightness(weights, *self._compared(x, mean))[0] ** 2
        return information if weight is None else information * weight

    def _compared(self, x: Array, mean: Array) -> tuple[Array, ...]:
        """Pixels, their means, and their weights if not all count once: what a likelihood is given.

        Where its `gain` multiplies means, those above the background.
        """
        pixels, weight = self.observed(x)
        if getattr(self.likelihood, "gain", 0) and any(self.background):
            level = jnp.broadcast_to(jnp.asarray(self.background, x.dtype), x.shape)
            pixels, mean = pixels - level, mean - level
        return (pixels, mean) if weight is None else (pixels, mean, weight)

    def init(self, key: Array) -> Weights:
        """Fresh weights of the networks and the likelihood."""
        networks_key, pose_key = jax.random.split(key)
        weights = self.networks.init(networks_key) | self.likelihood.init()
        if self.pose_network is not None:
            weights |= {"pose_network": self.pose_network.init(pose_key, self.image_shape, self.transform)}
        return weights

    def encode(self, weights: Weights, x: Array) -> Posterior:
        """q(z | x) for one example, without any search."""
        return Posterior(*self.networks.encode(weights, self.observed(x)[0]))

    def decode(self, weights: Weights, z: Array) -> Array:
        """Pixel means [*space, C] for one z, in the canonical frame."""
        return self.likelihood.mean(self.networks.decode(weights, z))


class Params(struct.PyTreeNode):
    """Weights (a pytree) with their static `model`; what every public function takes first.

    To wrap a pre-trained VAE of your own, write a hashable object with `encode(weights, x)` and `decode(weights, z)`.
    Give it as `model`, or as the `networks` of a `Model` with your likelihood and transform.

    Raises:
      Mistake: if `model` is not hashable, or has no `encode` and `decode`.
    """

    weights: Weights
    model: Any = struct.field(pytree_node=False)

    def reduced(self, factor: int) -> "Params":
        """The model of images at a `factor`-th of the resolution, if the networks have `reduced`; else itself."""
        if not self.model.reducible(factor):
            return self
        smaller, weights = self.model.networks.reduced(self.weights, factor)
        frame = dataclasses.replace(self.model.frame, margin=self.model.frame.margin // factor)
        mask = None if self.model.mask is None else self.model.mask.reduced(factor)
        small = {"networks": smaller, "frame": frame, "mask": mask, "pose_network": None}
        return Params(weights, dataclasses.replace(self.model, **small))

    def in_precision(self, dtype: str) -> "Params":
        """The same weights with networks that compute in `dtype`, "float32" or "bfloat16"."""
        if dtype == "float32":
            return self
        return self.replace(model=dataclasses.replace(self.model, networks=Cast(self.model.networks, dtype)))

    @property
    def pose_weights(self) -> Weights:
        """The weights of the pose network."""
        return self.weights.pose_network if isinstance(self.weights, Beside) else self.weights["pose_network"]

    def with_pose_network(self, weights: Weights) -> "Params":
        """The same VAE with these weights of the pose network."""
        if isinstance(self.weights, Mapping):
            return self.replace(weights={**self.weights, "pose_network": weights})
        own = self.weights.own if isinstance(self.weights, Beside) else self.weights
        return self.replace(weights=Beside(own, weights))

    def __post_init__(self) -> None:
        if isinstance(self.model, Model):
            networks = self.model.networks
        else:
            networks = self.model
            object.__setattr__(self, "model", Model(networks=self.model))
        if not (callable(getattr(networks, "encode", None)) and callable(getattr(networks, "decode", None))):
            raise Mistake(
                f"Params expects a model with encode(weights, x) and decode(weights, z), got {type(networks).__name__}"
            )
        try:
            hash(self.model)
        except TypeError as error:
            raise Mistake(
                f"Params expects a hashable model (frozen dataclasses, tuples for lists), but {error}: {self.model!r}"
            ) from None
