"""The networks and the likelihoods."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import avae
from avae.data.dataset import Data, load
from avae.networks.convolution import convolve_volume, depth_to_space
from avae.networks.paper_loss import PaperLoss
from avae.networks.vae import block_means

NETWORKS = [
    avae.MLP(),
    avae.MLP(image_shape=(6, 10, 3), latent=2, hidden=(7,)),
    avae.MLP(image_shape=(4, 5, 6, 2), latent=3, hidden=(8, 6)),
    avae.Conv(),
    avae.Conv(image_shape=(12, 20, 3), latent=5),
    avae.Conv(image_shape=(8, 4, 12, 2), latent=5),
    avae.Conv((8, 12, 4, 2), 3, widths=(4, 8, 6), strides=(2, 2, 1), decoder_widths=(6, 4)),
]


def shapes(tree):
    return jax.tree.map(lambda leaf: leaf.shape, tree)


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_shapes(network):
    weights = jax.eval_shape(network.init, jax.random.key(0))
    x, z = jax.ShapeDtypeStruct(network.image_shape, jnp.float32), jax.ShapeDtypeStruct((network.latent,), jnp.float32)
    mu, logvar = jax.eval_shape(network.encode, weights, x)
    raw = jax.eval_shape(network.decode, weights, z)
    assert mu.shape == logvar.shape == (network.latent,)
    assert raw.shape == network.image_shape
    assert {leaf.dtype for leaf in (mu, logvar, raw)} == {np.dtype("float32")}
    assert hash(network) == hash(type(network)(**vars(network)))


def test_default_mlp_has_the_documented_weights():
    widths = [(784, 256), (256, 256), (256, 2 * 16), (16, 256), (256, 256), (256, 784)]
    weights = jax.eval_shape(avae.MLP().init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(weights)) == sum(a * b + b for a, b in widths)


def test_conv_has_the_papers_channels():
    weights = shapes(jax.eval_shape(avae.Conv().init, jax.random.key(0)))
    kernels = [weights["encoder"][f"Conv_{i}"]["kernel"] for i in range(4)]
    assert kernels == [(3, 3, 1, 32), (3, 3, 32, 32), (3, 3, 32, 64), (3, 3, 64, 16)]
    assert weights["encoder"]["Dense_0"]["kernel"] == (7 * 7 * 16, 2 * 16)
    kernels = [weights["decoder"][f"Conv_{i}"]["kernel"] for i in range(4)]
    assert kernels == [(3, 3, 16, 32), (3, 3, 32, 4 * 16), (3, 3, 16, 4 * 16), (3, 3, 16, 1)]


@pytest.mark.parametrize(
    "network",
    [avae.MLP((8, 8, 2), 3, (9,)), avae.Conv((8, 12, 2), 3), avae.Conv((4, 8, 4, 2), 3, (4, 6), (2, 2), (4, 3))],
    ids=["mlp", "conv", "conv3d"],
)
def test_examples_do_not_see_each_other(network):
    rng = np.random.default_rng(0)
    weights = jax.eval_shape(network.init, jax.random.key(0))
    weights = jax.tree.map(lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(np.float32), weights)
    x = rng.random((3, *network.image_shape), np.float32)

    def run(weights, x):
        posterior = network.encode(weights, x)
        raw = network.decode(weights, posterior.mu)
        return jnp.sum(raw**2), (posterior, raw)

    together = jax.jit(jax.vmap(run, in_axes=(None, 0)))(weights, x)
    alone, gradients = zip(*map(jax.jit(partial(jax.value_and_grad(run, has_aux=True), weights)), x), strict=True)
    for batched, *singles in zip(jax.tree.leaves(together), *map(jax.tree.leaves, alone), strict=True):
        np.testing.assert_allclose(batched, singles, rtol=1e-4, atol=1e-4)
        assert np.ptp(batched, axis=0).max() > 1e-3  # the input matters
    for leaf in jax.tree.leaves(gradients):
        assert np.isfinite(leaf).all()
        assert np.abs(leaf).max() > 0


def test_init_is_drawn_from_the_key():
    init = jax.jit(avae.MLP((4, 4, 1), 2, (3,)).init)
    first, same, other = init(jax.random.key(0)), init(jax.random.key(0)), init(jax.random.key(1))
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), first, same))
    kernel = first["encoder"]["Dense_0"]["kernel"]
    assert (kernel != other["encoder"]["Dense_0"]["kernel"]).all()


def test_slim_conv_yields_the_image_by_its_second_doubling():
    network = avae.Conv((8, 8, 8, 1), widths=(4, 8), strides=(2, 2), decoder_widths=(6, 5))
    weights = shapes(jax.eval_shape(network.init, jax.random.key(0)))
    kernels = [weights["decoder"][f"Conv_{i}"]["kernel"] for i in range(3)]
    assert kernels == [(3, 3, 3, 8, 6), (3, 3, 3, 6, 8 * 5), (3, 3, 3, 5, 8 * 1)]
    assert "Conv_3" not in weights["decoder"]


@pytest.mark.parametrize("strides", [(1, 1, 1), (2, 2, 2), (2, 1, 3)])
@pytest.mark.parametrize("side", [4, 5])
def test_volumes_are_convolved_as_by_lax(strides, side):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, side, 6, 3, 2)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 3, 2, 4)).astype(np.float32)
    layout = ("NDHWC", "DHWIO", "NDHWC")
    expected = jax.lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=layout)
    np.testing.assert_allclose(convolve_volume(x, kernel, strides, "SAME"), expected, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_depth_to_space(channels):
    h = np.arange(2 * 3 * 4 * channels).reshape(2, 3, 4 * channels)
    out = depth_to_space(jnp.asarray(h))
    assert out.shape == (4, 6, channels)
    for i, j, c in np.ndindex(4, 6, channels):
        assert out[i, j, c] == h[i // 2, j // 2, (2 * (i % 2) + j % 2) * channels + c]


def test_depth_to_space_of_volumes():
    h = np.arange(2 * 3 * 1 * 16).reshape(2, 3, 1, 16)
    out = depth_to_space(jnp.asarray(h))
    assert out.shape == (4, 6, 2, 2)
    for i, j, k, c in np.ndindex(4, 6, 2, 2):
        assert out[i, j, k, c] == h[i // 2, j // 2, k // 2, (4 * (i % 2) + 2 * (j % 2) + k % 2) * 2 + c]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: avae.MLP(latent=0), "at least 1, got MLP"),
        (lambda: avae.MLP(hidden=(8, 0)), "at least 1, got MLP"),
        (lambda: avae.MLP(image_shape=(0, 8, 1)), "at least 1, got MLP"),
        (lambda: avae.Conv(latent=0), "at least 1, got Conv"),
        (lambda: avae.Conv(image_shape=(10, 12, 1)), r"divisible by 4, got \(10, 12, 1\)"),
        (lambda: avae.Conv(image_shape=(12, 30, 1)), r"divisible by 4, got \(12, 30, 1\)"),
        (lambda: avae.Conv(image_shape=(8, 8, 6, 1)), r"divisible by 4, got \(8, 8, 6, 1\)"),
        (lambda: avae.Conv(image_shape=(8, 1)), r"\[H, W, C\] or volumes \[D, H, W, C\].*got \(8, 1\)"),
        (lambda: avae.Conv(widths=(8, 0, 8, 8)), "at least 1, got Conv"),
        (lambda: avae.Conv(widths=(8, 16)), r"one stride per width, got \(1, 2, 2, 1\) for \(8, 16\)"),
        (lambda: avae.Conv(widths=(), strides=()), "one stride per width"),
        (lambda: avae.Conv(decoder_widths=(8,)), r"2 or 3 decoder_widths, got \(8,\)"),
        (lambda: avae.Bernoulli(floor=0.0), "0 < floor < 0.5, got 0.0"),
        (lambda: avae.Bernoulli(floor=0.5), "0 < floor < 0.5, got 0.5"),
        (lambda: avae.Gaussian(scale=0.0), "scale > 0 or None"),
        (lambda: avae.Gaussian(scale=float("nan")), "scale > 0 or None"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def pixels(seed=0, shape=(6, 5, 2)):
    rng = np.random.default_rng(seed)
    return rng.random(shape), 3 * rng.normal(size=shape)


def test_bernoulli_equals_numpy():
    x, raw = pixels()
    m = 1 / (1 + np.exp(-raw))
    expected = np.sum(x * np.log(m) + (1 - x) * np.log(1 - m))
    bernoulli = avae.Bernoulli()
    x, raw = x.astype(np.float32), jnp.asarray(raw, jnp.float32)
    np.testing.assert_allclose(bernoulli.mean(raw), m, atol=1e-6)
    np.testing.assert_allclose(bernoulli.log_prob({}, x, bernoulli.mean(raw)), expected, rtol=0, atol=1e-3)
    np.testing.assert_allclose(bernoulli.log_prob_raw({}, x, raw), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("floor", [1e-4, 1e-2])
def test_bernoulli_is_clamped_alike_from_means_and_logits(floor):
    bernoulli = avae.Bernoulli(floor=floor)
    x = jnp.array([0.0, 1.0, 0.3])
    for mean, logit in [(0.0, -1e4), (1.0, 1e4)]:
        m = np.clip(mean, floor, 1 - floor)
        expected = np.sum(np.asarray(x) * np.log(m) + (1 - np.asarray(x)) * np.log(1 - m))
        np.testing.assert_allclose(bernoulli.log_prob({}, x, jnp.full(3, mean)), expected, atol=1e-3)
        np.testing.assert_allclose(bernoulli.log_prob_raw({}, x, jnp.full(3, logit)), expected, atol=1e-3)
        slope_mean = jax.grad(lambda m: bernoulli.log_prob({}, x, m))(jnp.full(3, mean))
        slope_logit = jax.grad(lambda raw: bernoulli.log_prob_raw({}, x, raw))(jnp.full(3, logit))
        assert np.isfinite(slope_mean).all()
        assert np.isfinite(slope_logit).all()


@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_gaussian_equals_the_closed_form(scale):
    x, mean = pixels()
    expected = np.sum(-0.5 * ((x - mean) / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi))
    x, mean = x.astype(np.float32), jnp.asarray(mean, jnp.float32)
    fixed, learned = avae.Gaussian(scale), avae.Gaussian()
    assert fixed.init() == {}
    assert shapes(learned.init()) == {"log_scale": ()}
    for likelihood, weights in [(fixed, {}), (learned, {"log_scale": jnp.log(scale)})]:
        np.testing.assert_allclose(likelihood.log_prob(weights, x, mean), expected, rtol=1e-5)
        np.testing.assert_allclose(likelihood.log_prob_raw(weights, x, mean), expected, rtol=1e-5)
        np.testing.assert_array_equal(likelihood.mean(mean), mean)


@pytest.mark.usefixtures("x64")
def test_learned_scale_is_the_root_mean_square_at_its_optimum():
    x, mean = map(jnp.asarray, pixels())
    slope = jax.grad(lambda log_scale: avae.Gaussian().log_prob({"log_scale": log_scale}, x, mean))
    best = jnp.log(jnp.sqrt(jnp.mean((x - mean) ** 2)))
    np.testing.assert_allclose(slope(best), 0, atol=1e-10)
    assert slope(best - 0.1) > 1
    assert slope(best + 0.1) < -1


def test_the_papers_loss_has_a_floor_that_no_output_passes():
    loss, (x, mean) = PaperLoss(), pixels()
    x, mean = np.clip(x, 0, 1).astype(np.float32), np.clip(mean, 0, 1).astype(np.float32)
    standardised = (x - 0.1307) / 0.3081
    np.testing.assert_allclose(-loss.log_prob({}, x, mean), np.sum((standardised - mean) ** 2), rtol=1e-5)
    best = np.clip(standardised, 0, 1)
    np.testing.assert_allclose(loss.floor(x), -loss.log_prob({}, x, best), rtol=1e-5)
    assert -loss.log_prob({}, x, mean) > loss.floor(x) > 0
    raw = jnp.array([-2.0, 0.0, 3.0])
    x, mean = x.ravel()[:3], jax.nn.sigmoid(raw)
    np.testing.assert_allclose(loss.log_prob_raw({}, x, raw), loss.log_prob({}, x, mean), rtol=1e-4)
    with pytest.raises(ValueError, match="expects spread > 0"):
        PaperLoss(spread=0.0)


def test_the_papers_floor_on_the_embedded_digits():
    """515.1 in the paper, which pads digits to 40x40: each pixel of the border adds (0.1307 / 0.3081)^2."""
    digits = load(Data(pose="upright", n_train=1)).test.images
    border = (40**2 - 28**2) * (0.1307 / 0.3081) ** 2
    np.testing.assert_allclose(np.mean(jax.vmap(PaperLoss().floor)(digits)) + border, 515.1, rtol=0.02)


@pytest.mark.usefixtures("x64")
def test_the_papers_curvature_is_that_of_its_squared_error():
    x, mean = (np.clip(part, 0, 1).ravel() for part in pixels())
    hessian = jax.hessian(lambda mean: -PaperLoss().log_prob({}, x, mean))(jnp.asarray(mean))
    np.testing.assert_allclose(hessian, np.diag(PaperLoss().fisher({}, mean)), atol=1e-12)


@pytest.mark.parametrize("floor", [1e-4, 1e-2])
@pytest.mark.usefixtures("x64")
def test_bernoulli_fisher_is_the_expected_curvature(floor):
    bernoulli, h = avae.Bernoulli(floor=floor), 1e-5
    for m in (0.02, 0.3, 0.5, 0.9):

        def curvature(x, m=m):
            low, mid, high = (bernoulli.log_prob({}, jnp.array([x]), jnp.array([m + s])) for s in (-h, 0.0, h))
            return (low - 2 * mid + high) / h**2

        expected = -(m * curvature(1.0) + (1 - m) * curvature(0.0))
        np.testing.assert_allclose(bernoulli.fisher({}, jnp.array([m]))[0], expected, rtol=1e-4)
    flat = jnp.array([0.0, 0.5 * floor, 1 - 0.5 * floor, 1.0])  # beyond the clamp nothing depends on the mean
    np.testing.assert_array_equal(bernoulli.fisher({}, flat), 0)
    assert bernoulli.fisher({}, jnp.array([1.01 * floor])) > 0.9 / floor


@pytest.mark.usefixtures("x64")
def test_gaussian_fisher_is_the_expected_curvature():
    x, mean = map(jnp.asarray, pixels(shape=(3, 1)))
    for gaussian, weights in [(avae.Gaussian(0.3), {}), (avae.Gaussian(), {"log_scale": jnp.log(0.3)})]:
        curvature = jax.hessian(lambda m: -gaussian.log_prob(weights, x, m))(mean)  # noqa: B023
        np.testing.assert_allclose(gaussian.fisher(weights, mean).ravel(), np.diag(curvature.reshape(3, 3)), rtol=1e-9)


def test_check_of_the_range():
    assert avae.Bernoulli().check(np.array([0.0, 1.0])) is None
    assert "[0, 1]" in avae.Bernoulli().check(np.array([-0.5, 1.0]))
    assert "got [0, 255]" in avae.Bernoulli().check(np.array([0.0, 255.0]))
    assert avae.Gaussian().check(np.array([-5.0, 255.0])) is None


@pytest.mark.parametrize("shape", [(8, 12, 2), (4, 8, 4, 1)])
def test_reduced_mlp_sees_blocks_and_answers_with_their_means(shape):
    factor, d = 2, len(shape) - 1
    network = avae.MLP(image_shape=shape, latent=3, hidden=(7, 5))
    weights = network.init(jax.random.key(0))
    small, reduced = network.reduced(weights, factor)
    assert small.image_shape == (*(side // factor for side in shape[:-1]), shape[-1])
    x = jax.random.uniform(jax.random.key(1), small.image_shape)
    blocks = x
    for axis in range(d):
        blocks = jnp.repeat(blocks, factor, axis=axis)
    for given, wanted in zip(small.encode(reduced, x), network.encode(weights, blocks), strict=True):
        np.testing.assert_allclose(given, wanted, atol=1e-5)
    z = jax.random.normal(jax.random.key(2), (3,))
    np.testing.assert_allclose(small.decode(reduced, z), block_means(network.decode(weights, z), factor), atol=1e-6)


def test_params_are_reduced_where_networks_and_frame_allow_it():
    model = avae.Model(networks=avae.MLP(image_shape=(16, 16, 1), hidden=(4,)), frame=avae.Frame(margin=2))
    params = avae.init(jax.random.key(0), model)
    assert params.reduced(2).model.image_shape == (6, 6, 1)
    assert params.reduced(2).model.frame.margin == 1
    assert params.reduced(4) is params  # half a pixel of margin
    conv = avae.init(jax.random.key(0), avae.Model(networks=avae.Conv(image_shape=(8, 8, 1))))
    assert conv.reduced(2) is conv
