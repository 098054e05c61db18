"""What travels together: the weights, and the static description of everything that gives them meaning."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike

from avae.networks.vae import MLP, Bernoulli, Posterior, Weights
from avae.runtime.devices import local
from avae.runtime.mistake import Mistake
from avae.settings import Search, preset
from avae.transforms import Rotation, Transform, check_family
from avae.transforms.warp import warp_one


@dataclasses.dataclass(frozen=True)
class Frame:
    """The canonical frame: the window in which the networks see an object, centred on that of the image.

    Attributes:
      margin: image pixels by which it is larger on every side, so that a turned object's corners are not cut.
      resolution: its pixels per image pixel, so that the warp back blurs the reconstruction less.
    """

    margin: int = 0
    resolution: int = 1

    def __post_init__(self) -> None:
        whole = isinstance(self.margin, int) and isinstance(self.resolution, int)
        if not whole or self.margin < 0 or self.resolution < 1:
            raise Mistake(
                f"frame expects margin >= 0 and resolution >= 1, both whole, got {self.margin} and {self.resolution}"
            )

    def shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The frame [*space, C] that belongs to images [*space, C]."""
        *space, channels = image_shape
        return (*(self.resolution * (side + 2 * self.margin) for side in space), channels)

    def image_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The images [*space, C] to which the frame `shape` [*space, C] belongs; the inverse of `shape`.

        Raises:
          Mistake: if there are none.
        """
        *space, channels = shape
        image = (*(side // self.resolution - 2 * self.margin for side in space), channels)
        if self.shape(image) != tuple(shape) or min(image) < 1:
            raise Mistake(
                f"frame: the networks take {tuple(shape)}, but no images have a frame of this shape with margin "
                f"{self.margin} and resolution {self.resolution}"
            )
        return image


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
      pose_network: an `avae.PoseNetwork` that proposes poses, or None; its weights are beside those of the networks.
    """

    networks: Any = MLP()
    likelihood: Any = Bernoulli()
    transform: Transform = Rotation()
    search: Search | None = None
    frame: Frame = Frame()
    pose_network: Any = None

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
        pull = pull.at[:, :-1].multiply(self._extent)
        return warp_one(x, pull, out, on_grid=transform.on_grid and self._aligned(x.shape[:-1], out))

    def from_canonical(self, y: Array, transform: Transform, alpha: Array, out: tuple[int, ...]) -> Array:
        """tau_alpha^-1 y: one picture of the canonical frame [*space, C] in the frame of the image, of shape `out`."""
        pull = transform.inverse(alpha) / self._extent
        return warp_one(y, pull, out, on_grid=transform.on_grid and self._aligned(out, y.shape[:-1]))

    def _space(self, x: Array) -> tuple[int, ...]:
        """The canonical frame's shape, by default that of the image at hand."""
        return tuple(getattr(self.networks, "image_shape", x.shape)[:-1])

    def _aligned(self, image: tuple[int, ...], canonical: tuple[int, ...]) -> bool:
        """Whether the two frames have pixels of one size, and quarter turns of each take pixels to pixels."""
        margins = {side - 2 * self.frame.margin for side in canonical}
        return margins == set(image) and len({side % 2 for side in image}) == 1 and self.frame.resolution == 1

    def settings(self, search: Search | str | None = None, transform: Transform | None = None) -> Search:
        """The search settings that hold: those given or named, else the model's, else those of the family.

        Raises:
          Mistake: if they ask for scoring at a resolution that the images do not have, or the name is not known.
        """
        sides = self.image_shape[:-1] if self.image_shape else ()
        family = transform or self.transform
        own = (self.search if family == self.transform else None) or self._search_of(family)
        network = self.pose_network is not None and family == self.transform
        if isinstance(search, str):
            search = preset(search, own, network)
        settings = search or own
        if settings.coarse > 1 and (not sides or any(side % settings.coarse for side in sides)):
            known = f"sides {sides}" if sides else "sides, which networks without `image_shape` do not tell"
            raise Mistake(f"search.coarse: expected a divisor of the images' {known}, got {settings.coarse}")
        if settings.starts == "network" and not network:
            raise Mistake(
                f'search.starts: "network" expects a model with a pose network for {family}: see avae.distill'
            )
        return settings

    def _search_of(self, family: Transform) -> Search:
        """The family's settings for these networks."""
        reduced = family.reduced_search
        return reduced if reduced is not None and self.reducible(reduced.coarse) else family.search

    def reducible(self, factor: int) -> bool:
        """Whether the networks have a form for images at a `factor`-th of the resolution, in whole pixels."""
        if self.image_shape is None or not callable(getattr(self.networks, "reduced", None)):
            return False
        return not any(size % factor for size in (*self.image_shape[:-1], self.frame.margin))

    @property
    def _extent(self) -> float:
        """Half the shorter side of the canonical frame, in half-widths of the image."""
        return 1.0 if self.image_shape is None else 1 + 2 * self.frame.margin / min(self.image_shape[:-1])

    def init(self, key: Array) -> Weights:
        """Fresh weights of the networks and the likelihood."""
        weights = self.networks.init(key) | self.likelihood.init()
        if self.pose_network is not None:
            own = jax.random.fold_in(key, 1)
            weights |= {"pose_network": self.pose_network.init(own, self.image_shape, self.transform)}
        return weights

    def encode(self, weights: Weights, x: Array) -> Posterior:
        """q(z | x) for one example, without any search."""
        return Posterior(*self.networks.encode(weights, x))

    def decode(self, weights: Weights, z: Array) -> Array:
        """Pixel means [*space, C] for one z, in the canonical frame."""
        return self.likelihood.mean(self.networks.decode(weights, z))


class Params(struct.PyTreeNode):
    """Weights (a pytree) with their static `model`; what every public function takes first.

    To wrap a pre-trained VAE of your own, give an object that is hashable and has `encode(weights, x)` and
    `decode(weights, z)` as `model`, or as the `networks` of a `Model` with your likelihood and transform.

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
        return Params(weights, dataclasses.replace(self.model, networks=smaller, frame=frame))

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


def init(key: Array, model: Any) -> Params:
    """Fresh weights for a model.

    Args:
      key: draws them.
      model: a `Model`, or a bare network such as `avae.MLP()`.

    Returns:
      `Params`.

    Raises:
      Mistake: if `key` is not a key of `jax.random.key`.
    """
    check_key(key)
    if not isinstance(model, Model):
        model = Model(networks=model)
    return Params(model.init(key), model)


def check_images(x: ArrayLike, model: Model, *, name: str = "x", canonical: bool = False) -> Array:
    """`x` as float32 [B, *space, C] if it is what `model` takes, or what its networks take if `canonical`.

    Under a trace only the shape and the dtype can be checked, not the values.

    Raises:
      Mistake: for a wrong rank, shape or dtype, no images at all, values that are not finite or not in the
        likelihood's range; the message says what was expected and what came.
    """
    array = x if isinstance(x, jax.Array) else np.asarray(x)
    dim = model.transform.dim
    expected = getattr(model.networks, "image_shape", None) if canonical else model.image_shape
    wanted = f"[B, {', '.join(map(str, expected))}]" if expected else f"[B, {'D, ' if dim == 3 else ''}H, W, C]"
    if not jnp.issubdtype(array.dtype, jnp.floating):
        hint = "; divide 8-bit images by 255" if array.dtype == np.uint8 else ""
        raise Mistake(f"{name}: expected floating-point images {wanted}, got dtype {array.dtype}{hint}")
    if array.ndim != dim + 2:
        hint = f"; for one example pass {name}[None]" if array.ndim == dim + 1 else ""
        raise Mistake(f"{name}: expected a batch {wanted}, channels last, got shape {array.shape}{hint}")
    if expected and array.shape[1:] != tuple(expected):
        raise Mistake(f"{name}: expected {wanted}, got shape {array.shape}")
    if array.shape[0] == 0:
        raise Mistake(f"{name}: expected at least one image, got an empty batch of shape {array.shape}")
    if not isinstance(array, Tracer):
        _check_values(local(array), model, name)
    return jnp.asarray(array, jnp.float32)


def check_key(key: Any) -> None:
    """Raises Mistake if `key` is neither None nor one typed key of `jax.random.key`."""
    if key is None or (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and not key.shape):
        return
    came = f"an array of dtype {key.dtype} and shape {key.shape}" if hasattr(key, "dtype") else repr(key)
    raise Mistake(f"key: expected one typed key, as of jax.random.key(0), got {came}")


def _check_values(values: np.ndarray, model: Model, name: str) -> None:
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise Mistake(f"{name}: expected finite values, got NaN or infinity in {len(bad)} image(s), first at {bad[0]}")
    problem = model.likelihood.check(values)
    if problem:
        raise Mistake(f"{name}: expected {problem}")
