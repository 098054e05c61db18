"""Products of matrices in full: left to itself, an accelerator rounds their factors to 8 or 10 bits (bfloat16, TF32).

Networks are trained with that rounding; poses, sums over pixels and densities do not survive it.
"""

import functools

import jax.numpy as jnp

matmul = functools.partial(jnp.matmul, precision="highest")
einsum = functools.partial(jnp.einsum, precision="highest")
