"""The inner loop: `avae.search` on problems with a known answer, `avae.align` on a small random model."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import avae
from avae.settings import DEFAULTS

objective, warp = jax.jit(avae.objective), jax.jit(avae.warp)

SEARCH = avae.Search(n_starts=8, top_k=3, n_local=(), n_refined=3, n_steps=4)


@pytest.fixture(scope="module")
def found(params, images):
    return avae.align(params, images, search=SEARCH)


def template_losses(template, transform):
    """The squared error between x and the turned template: for Gauss-Newton, and as a plain function."""
    predict = lambda x, alpha: avae.warp(template, transform.matrix(alpha))  # noqa: E731
    composite = avae.CompositeLoss(
        predict=predict,
        score=lambda x, u: jnp.sum((x - u) ** 2),
        curvature=lambda x, u: jnp.full_like(u, 2.0),
    )
    return composite, lambda x, alpha: jnp.sum((x - predict(x, alpha)) ** 2)


ANGLES = np.array([[0.0], [2.0], [-1.1], [3.1]], np.float32)
POSES = np.array([[0.0, 0.0, 0.0], [2.0, 0.1, -0.05], [-1.1, -0.1, 0.1], [3.1, 0.05, 0.12]], np.float32)


@pytest.mark.parametrize(
    ("transform", "truth", "solver", "tolerance"),
    [
        (avae.Rotation(), ANGLES, avae.GaussNewton(), 1e-3),
        (avae.Rotation(), ANGLES, avae.Adam(), 0.02),
        (avae.Rigid(), POSES, avae.GaussNewton(), 1e-2),
    ],
)
def test_search_recovers_a_known_pose(images, transform, truth, solver, tolerance):
    composite, plain = template_losses(images[0], transform)
    x = warp(np.repeat(images[:1], 4, axis=0), jax.vmap(transform.matrix)(truth))
    settings = avae.Search(n_starts=32, top_k=4, n_refined=4, n_steps=20, solver=solver)
    found = avae.search(composite if isinstance(solver, avae.GaussNewton) else plain, x, transform, settings=settings)
    assert (jax.vmap(transform.distance)(found.alpha, truth) < tolerance).all()
    assert (found.loss < 0.01).all()
    assert (found.loss <= found.info.identity_loss + 1e-5).all()
    assert (found.info.identity_loss[1:] > 1).all()
    assert found.info.finite.all()


BOWL = avae.CompositeLoss(  # lowest at alpha = x
    predict=lambda x, alpha: alpha[0] - x, score=lambda x, u: u**2, curvature=lambda x, u: jnp.full_like(u, 2.0)
)


def test_search_defaults_to_the_solver_that_the_loss_allows():
    x = np.array([0.3, -2.0], np.float32)
    assert avae.search(BOWL, x, avae.Rotation()).info.kept.shape == (2, DEFAULTS[avae.Rotation].top_k)
    plain = lambda x, alpha: BOWL(x, alpha)  # noqa: E731
    assert avae.search(plain, x, avae.Rotation()).info.kept.shape == (2, avae.PAPER.top_k)


def test_no_steps_keep_the_best_start():
    x = np.array([0.1, 0.7, -2.0, -0.1], np.float32)
    settings = dataclasses.replace(SEARCH, n_steps=0)
    found = avae.search(BOWL, x, avae.Rotation(), settings=settings)
    np.testing.assert_allclose(found.alpha[:, 0], np.round(x / (np.pi / 4)) * np.pi / 4, atol=1e-6)
    np.testing.assert_allclose(found.loss, found.info.start_losses.min(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(found.info.accepted, 0)


def test_looking_around_only_helps():
    x = np.linspace(-3, 3, 25, dtype=np.float32)
    settings = dataclasses.replace(SEARCH, n_steps=0, n_local=(3,))
    found = avae.search(BOWL, x, avae.Rotation(), settings=settings)
    best_start = found.info.start_losses.min(axis=1)
    assert (found.loss <= best_start + 1e-6).all()
    assert (found.loss < best_start - 1e-3).mean() > 0.3
    np.testing.assert_allclose(found.loss, (found.alpha[:, 0] - x) ** 2, atol=1e-5)


@pytest.mark.parametrize("top_k", [1, 8])
def test_few_and_all_starts_can_be_kept(top_k):
    x = np.array([0.1, 0.7, -2.0], np.float32)
    found = avae.search(BOWL, x, avae.Rotation(), settings=avae.Search(n_starts=8, top_k=top_k, n_steps=4))
    np.testing.assert_allclose(found.alpha[:, 0], x, atol=1e-3)
    assert found.info.kept.shape == (3, top_k)


def test_a_key_draws_the_starts():
    x = np.array([0.3, -2.0], np.float32)
    settings = dataclasses.replace(SEARCH, n_steps=0)
    centres, drawn, same, other = (
        avae.search(BOWL, x, avae.Rotation(), key=key, settings=settings).info.start_losses
        for key in (None, jax.random.key(0), jax.random.key(0), jax.random.key(1))
    )
    np.testing.assert_array_equal(drawn, same)
    np.testing.assert_array_equal(drawn[:, 0], centres[:, 0])  # the identity stays
    assert (drawn != centres)[:, 1:].all()
    assert (drawn != other)[:, 1:].all()


def test_search_takes_a_pytree():
    loss = lambda x, alpha: (alpha[0] - x["angle"]) ** 2 * x["weight"]  # noqa: E731
    x = {"angle": np.array([0.5, -0.7], np.float32), "weight": np.array([1.0, 2.0], np.float32)}
    found = avae.search(loss, x, avae.Rotation(), settings=avae.PAPER)
    np.testing.assert_allclose(found.alpha[:, 0], x["angle"], atol=0.02)


def test_shapes_and_types(found):
    shapes = {
        "alpha": (3, 1),
        "matrix": (3, 2, 3),
        "loss": (3,),
        "std": (3, 1),
        "canonical": (3, 12, 12, 1),
        "reconstruction": (3, 12, 12, 1),
        "latent": (3, 3),
    }
    for name, shape in shapes.items():
        assert getattr(found, name).shape == shape, name
        assert getattr(found, name).dtype == np.float32, name
    info = found.info
    assert info.start_losses.shape == (3, 8)
    assert info.kept.shape == (3, 3)
    assert info.identity_loss.shape == info.accepted.shape == info.finite.shape == (3,)
    assert info.kept.dtype == info.accepted.dtype == np.int32
    assert info.finite.dtype == bool
    assert info.finite.all()
    assert (info.accepted >= 1).any()
    assert (info.accepted <= SEARCH.n_steps).all()
    assert (found.std > 0).all()


def test_fields_fit_together(found, params, images):
    model, transform = params.model, params.model.transform
    np.testing.assert_allclose(found.matrix, jax.vmap(transform.matrix)(found.alpha), atol=1e-6)
    np.testing.assert_allclose(found.canonical, warp(images, found.matrix), atol=1e-5)
    mu, _ = jax.vmap(lambda x: model.encode(params.weights, x))(found.canonical)
    np.testing.assert_allclose(found.latent, mu, atol=1e-4)
    decoded = jax.vmap(lambda z: model.decode(params.weights, z))(mu)
    back = warp(decoded, jax.vmap(transform.inverse)(found.alpha))
    np.testing.assert_allclose(found.reconstruction, back, atol=1e-4)
    np.testing.assert_allclose(found.loss, objective(params, images, found.alpha).total, rtol=0, atol=1e-3)


def test_scores_and_the_kept_starts(found, params, images):
    starts = np.asarray(params.model.transform.starts(SEARCH.n_starts))
    losses = np.stack([objective(params, images, np.tile(start, (3, 1))).total for start in starts], axis=1)
    np.testing.assert_allclose(found.info.start_losses, losses, rtol=1e-5)
    np.testing.assert_allclose(found.info.identity_loss, losses[:, 0], rtol=1e-5)
    np.testing.assert_array_equal(found.info.kept, np.argsort(losses, axis=1)[:, :3])
    assert len(np.unique(found.info.kept, axis=0)) > 1  # each image has its own
    assert (found.loss <= losses.min(axis=1) + 1e-3).all()
    assert (found.loss < losses.min(axis=1) - 1e-2).any()


def test_std_is_the_curvature_at_the_pose(found, params, images):
    step = 0.05  # the Fisher curvature is an expectation: it has the size of the loss's own, no more
    loss = lambda offset: objective(params, images, found.alpha + offset).total  # noqa: E731
    curvature = (loss(step) - 2 * loss(0) + loss(-step)) / step**2
    ratio = found.std[:, 0] * np.sqrt(np.abs(curvature))
    assert ((ratio > 0.2) & (ratio < 5)).all()


def test_images_do_not_see_their_batch_mates(found, params, images):
    alone = [avae.align(params, images[i : i + 1], search=SEARCH) for i in range(3)]
    for batched, *singles in zip(jax.tree.leaves(found), *map(jax.tree.leaves, alone), strict=True):
        np.testing.assert_allclose(batched, np.concatenate(singles), rtol=1e-3, atol=2e-3)
    assert len(np.unique(np.round(found.alpha, 2))) == 3


def test_adam_keeps_the_best_of_each_image(params, images):
    search = dataclasses.replace(SEARCH, solver=avae.Adam(0.2))  # overshoots
    together = avae.align(params, images, search=search)
    others = np.stack([images[0], images[0] * 0, images[0][::-1]])
    np.testing.assert_allclose(avae.align(params, others, search=search).loss[0], together.loss[0], rtol=1e-5)
    assert (together.loss <= together.info.start_losses.min(axis=1) + 1e-3).all()
    assert (together.loss < together.info.start_losses.min(axis=1) - 1e-2).any()
    np.testing.assert_allclose(together.loss, objective(params, images, together.alpha).total, rtol=0, atol=1e-3)


def test_deterministic_without_a_key(found, params, images):
    again = avae.align(params, images, search=SEARCH)
    assert jax.tree.all(jax.tree.map(np.array_equal, found, again))


def test_inside_jit(found, params, images):
    def inside(params, x):
        found = avae.align(params, x, search=SEARCH)
        return found.alpha, found.loss

    alpha, loss = jax.jit(inside)(params, images)
    np.testing.assert_allclose(loss, found.loss, rtol=1e-5)
    np.testing.assert_allclose(alpha, found.alpha, atol=1e-3)


def test_nan_weights_are_reported_not_raised(params, images):
    found = avae.align(jax.tree.map(lambda leaf: leaf * np.float32("nan"), params), images, search=SEARCH)
    assert not found.info.finite.any()
    assert not np.isfinite(found.loss).any()


def test_one_bad_start_does_not_spoil_the_others():
    """A loss that is NaN at the identity and next to it, and lowest at 1."""
    loss = lambda x, alpha: jnp.where(jnp.abs(alpha[0]) < 0.5, jnp.nan, (alpha[0] - x) ** 2)  # noqa: E731
    found = avae.search(loss, np.ones(2, np.float32), avae.Rotation(), settings=avae.PAPER)
    np.testing.assert_allclose(found.alpha, 1, atol=0.02)
    assert found.info.finite.all()
    assert np.isnan(found.info.identity_loss).all()


@dataclasses.dataclass(frozen=True)
class Template:
    """Someone else's VAE: it says nothing of image shapes, and always decodes to the same picture."""

    def encode(self, weights, x):
        return jnp.zeros(2), jnp.zeros(2)

    def decode(self, weights, z):
        return weights["logits"]


@pytest.mark.parametrize("wrap", [lambda vae: vae, avae.Model], ids=["bare", "in a Model"])
def test_a_wrapped_vae(images, wrap):
    picture = images[0] * 0.9 + 0.05
    params = avae.Params({"logits": jnp.log(picture / (1 - picture))}, wrap(Template()))
    angle = np.array([0.9, -2.0, 0.0], np.float32)
    x = warp(np.stack([picture] * 3), jax.vmap(avae.Rotation().matrix)(angle[:, None]))
    found = avae.align(params, x, search=SEARCH)
    # tau_alpha brings x to the canonical picture: it turns back by the angle.
    np.testing.assert_allclose(found.alpha[:, 0], -angle, atol=0.05)
    np.testing.assert_allclose(found.reconstruction[:, 3:-3, 3:-3], x[:, 3:-3, 3:-3], atol=0.1)


@pytest.mark.parametrize("transform", [avae.Rotation(), avae.Rigid()], ids=["rotation", "rigid"])
def test_std_is_infinite_where_the_image_says_nothing(images, transform):
    params = avae.Params({"logits": jnp.full((12, 12, 1), -1e4)}, Template())  # black, wherever it is moved
    search = avae.Search(n_starts=2, top_k=1, n_steps=0)
    found = avae.align(params, images, search=search, transform=transform)
    np.testing.assert_array_equal(found.std, np.inf)
    assert found.info.finite.all()


@dataclasses.dataclass(frozen=True)
class Volumes(avae.Transform):
    dim: ClassVar[int] = 3
    size: ClassVar[int] = 1
    dof: ClassVar[int] = 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda x: x[0],
            r"x: expected a batch \[B, 12, 12, 1\].*got shape \(12, 12, 1\); for one example pass x\[None\]",
        ),
        (lambda x: x[None], r"x: expected a batch \[B, 12, 12, 1\].*got shape \(1, 3, 12, 12, 1\)"),
        (lambda x: np.repeat(x, 3, axis=-1), r"x: expected \[B, 12, 12, 1\], got shape \(3, 12, 12, 3\)"),
        (lambda x: x[:, :10], r"x: expected \[B, 12, 12, 1\], got shape \(3, 10, 12, 1\)"),
        (lambda x: (255 * x).astype(np.uint8), r"floating-point images .* got dtype uint8; divide 8-bit images by 255"),
        (lambda x: x.astype(int), "floating-point images .* got dtype int64"),
        (lambda x: 255 * x, r"values in \[0, 1\] for the Bernoulli likelihood, got \["),
        (lambda x: x - 0.5, r"values in \[0, 1\] for the Bernoulli likelihood, got \[-0.5"),
        (
            lambda x: np.where(np.arange(3).reshape(3, 1, 1, 1) == 1, np.nan, x),
            r"NaN or infinity in 1 image\(s\), first at 1",
        ),
        (lambda x: x + np.float32("inf"), r"NaN or infinity in 3 image\(s\), first at 0"),
        (lambda x: x[:0], r"at least one image, got an empty batch of shape \(0, 12, 12, 1\)"),
    ],
)
def test_bad_images(params, images, spoil, message):
    with pytest.raises(ValueError, match=message):
        avae.align(params, spoil(images), search=SEARCH)


def test_bad_shape_under_jit(params, images):
    with pytest.raises(ValueError, match=r"got shape \(3, 10, 12, 1\)"):
        jax.jit(lambda x: avae.align(params, x, search=SEARCH))(images[:, :10])


def test_transform_of_another_dimension(params, images):
    with pytest.raises(ValueError, match=r"transform: expected a family of dimension 2, got .*Volumes"):
        avae.align(params, images, transform=Volumes())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_k": 9, "n_starts": 8}, "top_k: expected at most n_starts, 8, got 9"),
        ({"top_k": 0}, "top_k: expected a whole number of at least 1, got 0"),
        ({"n_starts": 0}, "n_starts: expected a whole number of at least 1, got 0"),
        ({"n_starts": 2.5}, "n_starts: expected a whole number of at least 1, got 2.5"),
        ({"twin": 0}, "twin: expected a whole number of at least 1, got 0"),
        ({"n_refined": 0}, "n_refined: expected a whole number of at least 1, got 0"),
        ({"n_steps": -1}, "n_steps: expected a whole number of at least 0, got -1"),
        ({"n_local": (4, 0)}, r"n_local: expected a tuple of numbers >= 1, one per round, got \(4, 0\)"),
        ({"n_local": 4}, "n_local: expected a tuple of numbers >= 1, one per round, got 4"),
        ({"solver": "newton"}, r"solver: expected avae.GaussNewton\(\) or avae.Adam\(\), got 'newton'"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        avae.Search(**settings)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_bad_solvers(value):
    with pytest.raises(avae.Mistake, match=f"Adam expects learning_rate > 0, got {value}"):
        avae.Adam(value)
    with pytest.raises(avae.Mistake, match=f"GaussNewton expects damping > 0, got {value}"):
        avae.GaussNewton(value)


def test_gauss_newton_needs_structure(images):
    _, plain = template_losses(images[0], avae.Rotation())
    with pytest.raises(ValueError, match=r"GaussNewton expects an avae.CompositeLoss.*use avae.Adam"):
        avae.search(plain, images, avae.Rotation(), settings=SEARCH)


@pytest.mark.parametrize("x", [np.zeros((0, 3)), np.zeros(()), (np.zeros((2, 3)), np.zeros((3, 3))), ()])
def test_search_needs_one_batch_axis(x):
    with pytest.raises(ValueError, match="x: expected arrays with one common, non-empty leading batch axis"):
        avae.search(lambda x, alpha: jnp.sum(alpha**2), x, avae.Rotation())


@pytest.mark.parametrize("model", [object(), avae.Model(networks=object()), None])
def test_params_need_encode_and_decode(model):
    with pytest.raises(ValueError, match=r"model with encode\(weights, x\) and decode\(weights, z\), got"):
        avae.Params({}, model)


def test_params_need_a_hashable_model():
    with pytest.raises(ValueError, match=r"hashable model .*unhashable type: 'list'"):
        avae.Params({}, avae.MLP(hidden=[8, 8]))
