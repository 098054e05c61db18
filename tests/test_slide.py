"""The shift of a pose, found at once: correlations against SciPy's, and J that they give against J itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal
from template import SIDE, picture, template

import avae
from avae.networks.paper_loss import PaperLoss
from avae.objective import pose_loss
from avae.settings import can_slide
from avae.slide import slide
from avae.starts import strata
from avae.transforms import correlation
from avae.transforms.correlation import correlate, peak, sums_inside

RIGID = avae.Rigid(max_shift=0.4)  # of 20 pixels: 4
LIKELIHOODS = [avae.Gaussian(0.1), avae.Gaussian(0.1, offset=0.5), avae.Bernoulli()]


@pytest.mark.parametrize("few", [0, 2**30], ids=["fft", "product"])
@pytest.mark.parametrize(("shape", "reach"), [((7, 10, 2), 3), ((12, 12, 1), 12), ((5, 6, 4, 1), 2)])
def test_correlations_are_scipys(few, shape, reach, monkeypatch, x64):
    monkeypatch.setattr(correlation, "FEW", few)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=shape), rng.normal(size=shape)
    wide = np.pad(x, [(reach, reach)] * (len(shape) - 1) + [(0, 0)])
    expected = signal.correlate(wide, y, mode="valid", method="direct")[..., 0]
    np.testing.assert_allclose(correlate(jnp.asarray(x), reach)(jnp.asarray(y)), expected, atol=1e-10)


@pytest.mark.parametrize(("shape", "reach"), [((7, 10, 2), 3), ((5, 6, 4, 1), 2), ((4, 4, 1), 9)])
def test_what_stays_in_the_frame(shape, reach, x64):
    y = jnp.asarray(np.random.default_rng(0).normal(size=shape))
    np.testing.assert_allclose(sums_inside(reach, shape[:-1])(y), correlate(jnp.ones(shape), reach)(y), atol=1e-12)


def test_the_peak_of_a_parabola_is_exact(x64):
    y, x = np.mgrid[-4:5, -3:4]
    scores = 7 - (x - 1.3) ** 2 - 2 * (y + 0.6) ** 2
    shift, highest = peak(jnp.asarray(scores))
    np.testing.assert_allclose(shift, [1.3, -0.6], atol=1e-12)
    np.testing.assert_allclose(highest, scores.max())


def test_a_peak_at_the_edge_stays_on_its_pixel():
    shift, _ = peak(jnp.asarray(np.arange(5.0)[:, None] + np.array([0.0, 1.0, 0.5])))
    np.testing.assert_allclose(shift, [0.1667, 2.0], atol=1e-3)


def test_flat_scores_give_a_finite_shift():
    assert np.isfinite(peak(jnp.zeros((5, 5)))[0]).all()


def shifted(ink, right, down):
    return np.roll(ink, (down, right), (0, 1))[..., None].astype(np.float32)


def small_picture():
    """The picture at half of its size, so that no shift pushes it out of the frame."""
    ink = np.zeros((SIDE, SIDE))
    ink[5:15, 5:15] = picture().reshape(10, 2, 10, 2).mean((1, 3))
    return ink


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=str)
@pytest.mark.parametrize(
    "extra", [{}, {"mask": avae.Mask.disc((SIDE, SIDE))}, {"background": 0.3}], ids=["", "mask", "grey"]
)
@pytest.mark.parametrize("move", [(0, 0), (3, -2), (-4, 4)])
def test_a_whole_shift_has_j_to_the_nat(likelihood, extra, move):
    level = extra.get("background", 0.0)
    params = template(np.maximum(small_picture(), level), likelihood, transform=RIGID, **extra)
    x = jnp.asarray(shifted(np.maximum(small_picture(), level), *move))
    at = jnp.array([0.0, *move]) * 2 / SIDE
    params, x = avae.checks.images_for(params, x[None])
    alpha, loss = slide(params, RIGID, 1, 1.0, x[0])(RIGID.identity)
    np.testing.assert_allclose(alpha[1:], at[1:], atol=0.25 * 2 / SIDE)
    exact = pose_loss(params, RIGID)(x[0], at)
    if not getattr(likelihood, "offset", 0):  # its o is that of the picture at the shift 0, without a prior
        np.testing.assert_allclose(loss, exact, rtol=1e-4, atol=0.5)


def test_gain_finds_the_same_shift():
    params = template(small_picture(), avae.Gaussian(0.1, gain=0.3, offset=0.3), transform=RIGID)
    x = jnp.asarray(0.6 * shifted(small_picture(), 3, -2) + 0.4)
    alpha, _ = slide(params, RIGID, 1, 1.0, x)(RIGID.identity)
    np.testing.assert_allclose(alpha[1:] * SIDE / 2, [3, -2], atol=0.25)


def test_shifts_keep_to_the_family():
    family, x = avae.Rigid(max_shift=0.2), jnp.asarray(shifted(small_picture(), 4, 0))
    alpha, _ = slide(template(small_picture(), transform=family), family, 1, 1.0, x)(family.identity)
    assert np.abs(alpha[1:]).max() <= 0.2


def test_one_start_finds_any_shift():
    """Pixels of noise as strong as the picture; by gradient from the centre no shift of 4 pixels would be found."""
    rng, moves = np.random.default_rng(0), [(4, -4), (-4, 0), (2, 3)]
    params = template(small_picture(), avae.Gaussian(0.3), transform=avae.Translation(max_shift=0.4))
    x = np.stack([shifted(small_picture(), *move) for move in moves]) + rng.normal(0, 0.3, (3, SIDE, SIDE, 1))
    found = avae.align(params, x.astype(np.float32), search={"n_starts": 1, "top_k": 1, "n_refined": 1, "n_steps": 3})
    np.testing.assert_allclose(found.alpha * SIDE / 2, moves, atol=0.5)


def test_volumes_slide():
    """A volume moved by (1, -2, 0) voxels in x, y, z."""
    volume = np.zeros((10, 10, 10, 1), np.float32)
    volume[3:6, 3:7, 4:6] = np.random.default_rng(0).random((3, 4, 2, 1))

    class Known:
        image_shape, latent = (10, 10, 10, 1), 1

        def encode(self, weights, x):
            return jnp.zeros(1), jnp.zeros(1)

        def decode(self, weights, z):
            return weights

    family = avae.Rigid3D(max_shift=0.5)
    params = avae.Params(jnp.asarray(volume), avae.Model(Known(), likelihood=avae.Gaussian(0.1), transform=family))
    x = jnp.asarray(np.roll(volume, (0, -2, 1), (0, 1, 2)))
    alpha, loss = slide(params, family, 1, 1.0, x)(family.identity)
    np.testing.assert_allclose(alpha[-3:] * 5, [1, -2, 0], atol=0.25)
    exact = pose_loss(params, family)(x, family.identity.at[-3:].set(jnp.array([0.2, -0.4, 0.0])))
    np.testing.assert_allclose(loss, exact, rtol=1e-4, atol=0.5)


def test_who_slides():
    slides = lambda likelihood, family: can_slide(template(picture(), likelihood, transform=family).model, family)  # noqa: E731
    assert slides(avae.Bernoulli(), RIGID)
    assert slides(avae.Gaussian(), avae.Mirrored(RIGID))
    assert slides(avae.Gaussian(), avae.Affine())
    assert not slides(avae.Gaussian(), avae.Rotation())
    assert not slides(PaperLoss(), RIGID)
    assert not slides(avae.Gaussian(), avae.Rigid(max_shift=0.05))  # half a pixel


def test_starts_are_not_shifted_where_shifts_are_found_at_once():
    family = avae.Mirrored(RIGID)
    sliding, not_sliding = (template(picture(), likelihood, transform=family) for likelihood in (None, PaperLoss()))
    starts = strata(sliding.model, family, 16, jax.random.key(0))
    assert not np.asarray(starts[:, -2:]).any()
    assert len(np.unique(np.asarray(starts[:, :2]), axis=0)) == 16
    assert np.asarray(strata(not_sliding.model, family, 16, jax.random.key(0))[:, -2:]).any(axis=1).sum() == 14


def test_the_cell_of_a_start_without_shift():
    np.testing.assert_allclose(RIGID.cell(8, shifted=False), [np.pi / 8, 0, 0])
    np.testing.assert_allclose(avae.Mirrored(RIGID).cell(16, shifted=False), [np.pi / 8, 0, 0])
    np.testing.assert_allclose(avae.Translation(0.2).cell(4, shifted=False), [0.1, 0.1])  # there is nothing else
