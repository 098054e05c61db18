"""What bounds and posteriors ask of a model, found before anything is traced."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from avae.checks import check_weights, family_of
from avae.model import Params
from avae.runtime.mistake import Mistake
from avae.settings import Plan
from avae.transforms import Transform


def check_model(params: Params, transform: Transform | None) -> Transform:
    """The family, if the model with it has a likelihood.

    Raises:
      Mistake: if the weights are not finite, the family has another dimension or no proper prior, or the likelihood
        is not normalised.
    """
    family = family_of(params.model, transform)
    check_weights(params)
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(params.weights)):
        finite = [True]
    else:
        with jax.ensure_compile_time_eval():
            finite = jax.device_get(_finite(params.weights))
    if not all(finite):
        path = jax.tree.leaves_with_path(params.weights)[finite.index(False)][0]
        raise Mistake(f"params: expected finite weights, got NaN or infinity in {jax.tree_util.keystr(path)}")
    check_likelihood(params)
    return family


@jax.jit
def _finite(weights: Any) -> list[Array]:
    """Of each array, whether all of it is finite."""
    return [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(weights)]


def check_likelihood(params: Params) -> None:
    """Raises Mistake unless the likelihood, in the class that writes `log_prob`, says that it is normalised.

    Under a mask it must be one of the pixels that count, each once.
    """
    if params.model.mask is not None and not params.model.mask.hard:
        raise Mistake("mask: a likelihood expects weights of 0 and 1 alone, for others exp(log_prob) is no density")
    likelihood = params.model.likelihood
    if not callable(getattr(likelihood, "log_prob", None)):
        raise Mistake(f"likelihood: expected one with log_prob(weights, x, mean), got {likelihood!r}")
    says = next((cls for cls in type(likelihood).__mro__ if {"normalised", "log_prob"} & vars(cls).keys()), object)
    if "normalised" not in vars(says) or not likelihood.normalised:
        raise Mistake(
            f"likelihood: expected one that is normalised, such as avae.Gaussian(scale=...), got {likelihood!r}; if "
            "exp(log_prob) of your own adds up to 1 over all images, say so by a class attribute `normalised = True` "
            "beside `log_prob`. A squared error is a likelihood only with its variance and its constant"
        )


def check_modes(n_modes: int | None, plan: Plan, family: Transform) -> int:
    """How many modes are searched.

    Raises:
      Mistake: if there are fewer starts.
    """
    n_starts = len(family.lattice) if family.dof == 0 else plan.search.n_starts
    wanted = min(n_starts, max(4, plan.search.top_k)) if n_modes is None else n_modes
    if not 1 <= wanted <= n_starts:
        raise Mistake(f"n_modes: expected 1 to {n_starts}, as many as the search has starts, got {wanted}")
    return wanted
