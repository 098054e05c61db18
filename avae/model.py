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

from avae.transforms import Rotation, Transform
from avae.vae import MLP, Bernoulli, Posterior, Weights

SOLVERS = ("gauss_newton", "adam")


@dataclasses.dataclass(frozen=True)
class Search:
    """Settings of the pose search (`avae.search`, `avae.align`).

    Attributes:
      n_starts: stratified poses that are scored, the identity among them.
      top_k: how many of them are kept.
      n_local: poses tried around each kept start, within its cell, before refinement: interpolation ripples J by up
        to a nat every few degrees, which the gradient alone does not cross.
      n_steps: refinement steps; 0 keeps the best start as it is.
      solver: "gauss_newton" (damped, forward mode) or "adam" (the paper's).
      learning_rate: Adam's step size, in radians and half-widths.
      damping: Gauss-Newton's first Levenberg-Marquardt damping, relative to the curvature.
      chunk: starts scored at a time; bounds the memory of the coarse stage, and keeps it in cache.
    """

    n_starts: int = 32
    top_k: int = 2
    n_local: int = 4
    n_steps: int = 4
    solver: str = "gauss_newton"
    learning_rate: float = 0.03
    damping: float = 0.01
    chunk: int = 4

    def __post_init__(self) -> None:
        if self.n_starts < 1 or self.chunk < 1:
            raise ValueError(f"search expects n_starts >= 1 and chunk >= 1, got {self.n_starts} and {self.chunk}")
        if not 1 <= self.top_k <= self.n_starts:
            raise ValueError(f"search expects 1 <= top_k <= n_starts, got top_k={self.top_k}, n_starts={self.n_starts}")
        if self.n_steps < 0 or self.n_local < 0:
            raise ValueError(
                "search expects n_steps >= 0 (0: no refinement) and n_local >= 0, "
                f"got {self.n_steps} and {self.n_local}"
            )
        if self.solver not in SOLVERS:
            raise ValueError(f"search expects a solver of {SOLVERS}, got {self.solver!r}")
        if not (self.learning_rate > 0 and self.damping > 0):
            raise ValueError(
                f"search expects learning_rate > 0 and damping > 0, got {self.learning_rate} and {self.damping}"
            )


PAPER = Search(n_starts=32, top_k=8, n_local=0, n_steps=20, solver="adam", learning_rate=0.03)


@dataclasses.dataclass(frozen=True)
class Model:
    """The static part of an AVAE; hashable, so that `jit` compiles once per model.

    Attributes:
      networks: object with `encode(weights, x) -> (mu, logvar)` and `decode(weights, z) -> raw output`, each for
        one example; `avae.MLP`, `avae.Conv`, or your own.
      likelihood: `avae.Bernoulli` or `avae.Gaussian`: how raw output explains pixels.
      transform: the family of poses that is searched.
      search: default search settings.
    """

    networks: Any = MLP()
    likelihood: Any = Bernoulli()
    transform: Transform = Rotation()
    search: Search = Search()

    def __post_init__(self) -> None:
        if not isinstance(self.transform, Transform):
            raise ValueError(f"transform: expected a family such as avae.Rotation(), got {self.transform!r}")
        shape, dim = getattr(self.networks, "image_shape", None), self.transform.dim
        if shape and len(shape) != dim + 1:
            raise ValueError(
                f"transform: {type(self.transform).__name__} poses data of dimension {dim}, "
                f"but the networks take examples of shape {tuple(shape)}, channels last"
            )

    def init(self, key: Array) -> Weights:
        """Fresh weights of the networks and the likelihood."""
        return self.networks.init(key) | self.likelihood.init()

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
      ValueError: if `model` is not hashable, or has no `encode` and `decode`.
    """

    weights: Weights
    model: Any = struct.field(pytree_node=False)

    def __post_init__(self) -> None:
        if isinstance(self.model, Model):
            networks = self.model.networks
        else:
            networks = self.model
            object.__setattr__(self, "model", Model(networks=self.model))
        if not (callable(getattr(networks, "encode", None)) and callable(getattr(networks, "decode", None))):
            raise ValueError(
                f"Params expects a model with encode(weights, x) and decode(weights, z), got {type(networks).__name__}"
            )
        try:
            hash(self.model)
        except TypeError as error:
            raise ValueError(
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
      ValueError: if `key` is not a key of `jax.random.key`.
    """
    check_key(key)
    if not isinstance(model, Model):
        model = Model(networks=model)
    return Params(model.init(key), model)


def check_images(x: ArrayLike, model: Model, *, name: str = "x") -> Array:
    """`x` as float32 [B, *space, C] if it is what `model` takes.

    Under a trace only the shape and the dtype can be checked, not the values.

    Raises:
      ValueError: for a wrong rank, shape or dtype, no images at all, values that are not finite or not in the
        likelihood's range; the message says what was expected and what came.
    """
    array = x if isinstance(x, jax.Array) else np.asarray(x)
    dim, expected = model.transform.dim, getattr(model.networks, "image_shape", None)
    wanted = f"[B, {', '.join(map(str, expected))}]" if expected else f"[B, {'D, ' if dim == 3 else ''}H, W, C]"
    if not jnp.issubdtype(array.dtype, jnp.floating):
        hint = "; divide 8-bit images by 255" if array.dtype == np.uint8 else ""
        raise ValueError(f"{name}: expected floating-point images {wanted}, got dtype {array.dtype}{hint}")
    if array.ndim != dim + 2:
        hint = f"; for one example pass {name}[None]" if array.ndim == dim + 1 else ""
        raise ValueError(f"{name}: expected a batch {wanted}, channels last, got shape {array.shape}{hint}")
    if expected and array.shape[1:] != tuple(expected):
        raise ValueError(f"{name}: expected {wanted}, got shape {array.shape}")
    if array.shape[0] == 0:
        raise ValueError(f"{name}: expected at least one image, got an empty batch of shape {array.shape}")
    if not isinstance(array, Tracer):
        _check_values(np.asarray(array), model, name)
    return jnp.asarray(array, jnp.float32)


def check_key(key: Any) -> None:
    """Raises ValueError if `key` is neither None nor one typed key of `jax.random.key`."""
    if key is None or (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and not key.shape):
        return
    came = f"an array of dtype {key.dtype} and shape {key.shape}" if hasattr(key, "dtype") else repr(key)
    raise ValueError(f"key: expected one typed key, as of jax.random.key(0), got {came}")


def _check_values(values: np.ndarray, model: Model, name: str) -> None:
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise ValueError(
            f"{name}: expected finite values, got NaN or infinity in {len(bad)} image(s), first at {bad[0]}"
        )
    problem = model.likelihood.check(values)
    if problem:
        raise ValueError(f"{name}: expected {problem}")
