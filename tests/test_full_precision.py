"""Whatever is no network multiplies in full: left to themselves, accelerators round factors to 8 or 10 bits."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from blocks import Blocks, example
from jax.extend.core import jaxprs_in_params

import avae
from avae.config import default, experiment
from avae.networks.paper_loss import PaperLoss
from avae.training.step import init_state, train_step
from avae.transforms.warp import compose, invert

HIGHEST = (jax.lax.Precision.HIGHEST,) * 2
FAMILIES = [avae.Rotation(), avae.Affine(), avae.Affine3D()]


def rounded(function, *args):
    """The products of `function(*args)` whose factors an accelerator may round."""

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name in ("dot_general", "conv_general_dilated"):
                yield equation
            for inner in jaxprs_in_params(equation.params):
                yield from walk(inner)

    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    return [str(equation) for equation in walk(jaxpr) if equation.params["precision"] != HIGHEST]


def test_a_rounded_product_is_seen():
    assert rounded(lambda x: jax.lax.map(lambda row: row @ row, x), jnp.ones((2, 2)))
    assert not rounded(lambda x: jnp.matmul(x, x, precision="highest"), jnp.ones((2, 2)))


@pytest.mark.parametrize(
    ("family", "likelihood"),
    [(avae.Rotation(), avae.Bernoulli()), (avae.Affine(), PaperLoss()), (avae.Rigid3D(), avae.Gaussian())],
    ids=["rotation", "affine", "rigid3d"],
)
def test_search_and_objective(family, likelihood):
    params, x = example(family, likelihood=likelihood)
    alpha = jnp.tile(family.identity, (len(x), 1))
    assert not rounded(avae.align, params, x)
    for poses in (alpha, None):
        assert not rounded(jax.grad(lambda *args: avae.objective(*args).total.sum()), params, x, poses)


@pytest.mark.parametrize("method", ["multi_start", "laplace", "importance", "quadrature", "iwae"])
def test_bounds(method):
    assert not rounded(lambda params, x: avae.log_likelihood(params, x, method=method), *example(avae.Rotation()))


@pytest.mark.parametrize("family", [avae.Rigid3D(), avae.QuarterTurns()], ids=lambda family: type(family).__name__)
def test_posterior(family):
    assert not rounded(avae.pose_posterior, *example(family))


def test_search_of_another_loss():
    loss = avae.CompositeLoss(
        predict=lambda x, alpha: x * alpha.sum(),
        score=lambda x, u: jnp.sum(u**2),
        curvature=lambda x, u: jnp.full_like(u, 2.0),
    )
    assert not rounded(lambda x: avae.search(loss, x, avae.Affine()), jnp.ones((2, 3)))


def test_training():
    config = default()
    config.data.update(n_train=4, n_test=2)
    config.train.update(batch_size=2)
    run = experiment(config)
    shape = run.model.image_shape
    run = dataclasses.replace(run, model=dataclasses.replace(run.model, networks=Blocks(shape)))
    state = init_state(run)
    assert not rounded(lambda state, x: train_step(state, x, run, index=jnp.arange(2)), state, jnp.zeros((2, *shape)))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: type(family).__name__)
def test_maps(family):
    assert not rounded(lambda a, b: compose(invert(family.matrix(a)), family.matrix(b)), *[family.identity] * 2)
    step = jnp.zeros(family.dof)
    assert not rounded(lambda a: family.project(family.retract(a, step)), family.identity)
