"""Which search settings hold: those given, else the model's, else the family's."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import avae
from avae.transforms import FAMILIES

OWN = avae.Search(n_starts=5, top_k=2, n_local=0, n_steps=1)
OTHER = avae.Search(n_starts=6, top_k=3, n_local=0, n_steps=0)


def starts_of(params, images, **options):
    """How many starts `align` scores, from shapes alone."""
    found = jax.eval_shape(lambda x: avae.align(params, x, **options), images)
    return found.info.start_losses.shape[1]


@pytest.fixture
def unset(params):
    return params.replace(model=dataclasses.replace(params.model, search=None))


@pytest.fixture
def own(params):
    return params.replace(model=dataclasses.replace(params.model, search=OWN))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_settings_that_suit_it(name):
    family = FAMILIES[name]()
    assert isinstance(family.search, avae.Search)
    assert "search" not in {field.name for field in dataclasses.fields(family)}  # of the family, not of the pose
    if family.dof == 0:
        assert (family.search.n_starts, family.search.n_steps) == (len(family.lattice), 0)
    else:
        assert family.search.n_steps > 0
    if family.dim == 2:
        assert avae.Model(networks=avae.Conv(), transform=family).settings() == family.search
        assert avae.Model(transform=family).settings() == (family.reduced_search or family.search)


def test_larger_families_have_more_starts():
    planar = [FAMILIES[name].search.n_starts for name in ("rotation", "rigid", "similarity", "affine")]
    spatial = [FAMILIES[name].search.n_starts for name in ("cube_rotations", "rotation3d", "rigid3d", "similarity3d")]
    assert planar == sorted(set(planar))
    assert spatial == sorted(set(spatial))


def test_the_order_of_settings(unset, own):
    rotation, rigid = avae.Rotation(), avae.Rigid()
    assert unset.model.transform == rotation
    assert unset.model.settings() == rotation.reduced_search
    assert unset.model.settings(transform=rigid) == rigid.search
    assert unset.model.settings(OTHER) == OTHER
    assert own.model.settings() == OWN
    assert own.model.settings(transform=rotation) == OWN
    assert own.model.settings(transform=avae.Similarity()) == avae.Similarity.search
    assert own.model.settings(transform=rigid) == rigid.search  # the model's own were meant for its own family
    assert own.model.settings(OTHER, rigid) == OTHER
    assert rigid.search != rotation.search


def test_align_follows_that_order(unset, own, images):
    assert starts_of(unset, images) == avae.Rotation.reduced_search.n_starts
    assert starts_of(own, images) == 5
    assert starts_of(own, images, search=OTHER) == 6
    assert starts_of(own, images, transform=avae.Rigid()) == avae.Rigid.search.n_starts
    assert starts_of(own, images, transform=avae.Rigid(), search=OTHER) == 6
    assert starts_of(own, images, transform=avae.QuarterTurns()) == 4


def test_search_takes_those_of_the_family_or_the_papers(images):
    composite = avae.CompositeLoss(
        predict=lambda x, alpha: alpha, score=lambda x, u: (u**2).sum(), curvature=lambda x, u: 2 + 0 * u
    )
    plain = lambda x, alpha: (alpha**2).sum()  # noqa: E731
    count = lambda loss, family: jax.eval_shape(  # noqa: E731
        lambda x: avae.search(loss, x, family).info.kept, images
    ).shape[1]
    assert count(composite, avae.Rigid()) == avae.Rigid.search.top_k == 4
    assert count(plain, avae.Rigid()) == avae.PAPER.top_k == 8


def test_a_family_of_one_s_own_brings_its_settings(images):
    @dataclasses.dataclass(frozen=True)
    class Turns(avae.Rotation):
        search = dataclasses.replace(OWN, n_starts=7)

    assert avae.Model(transform=Turns()).settings().n_starts == 7


def test_presets_by_name():
    model = avae.Model(networks=avae.MLP(image_shape=(12, 12, 1), hidden=(8,)))
    own = model.settings()
    assert own == avae.Rotation.reduced_search
    assert model.settings("default") == own
    assert model.settings("paper") == avae.PAPER
    assert (model.settings("exhaustive").n_starts, model.settings("exhaustive").coarse) == (720, 1)
    fast = model.settings("fast")
    assert (fast.starts, fast.n_starts, fast.n_refined) == ("stratified", own.n_starts, 1)
    assert (fast.n_local, fast.n_steps) < (own.n_local, own.n_steps)
    odd = avae.Model(networks=avae.MLP(image_shape=(11, 12, 1), hidden=(8,)))
    assert odd.settings() == avae.Rotation.search
    assert odd.settings("fast").coarse == 1
    guided = dataclasses.replace(model, pose_network=avae.PoseNetwork())
    alone = dataclasses.replace(guided, search=avae.Rotation.search)
    assert guided.settings("fast").n_starts == 5
    assert alone.settings("fast").n_starts == 12  # where no twin scores
    with pytest.raises(ValueError, match="one of exhaustive, paper, default, fast, got 'quick'"):
        model.settings("quick")


@pytest.mark.parametrize("n_full", [0, 2, 6, 99])
def test_starts_scored_again_in_full(params, images, n_full):
    """More of them can only help, and all of them are as good as scoring at full resolution."""
    settings = avae.Search(n_starts=16, top_k=1, n_local=0, n_steps=0)
    again = avae.align(params, images, search=dataclasses.replace(settings, coarse=2, n_full=n_full))
    once = avae.align(params, images, search=dataclasses.replace(settings, coarse=2))
    full = avae.align(params, images, search=settings)
    assert (again.loss <= once.loss + 1e-5).all()
    assert (full.loss <= again.loss + 1e-5).all()
    if n_full == 99:
        np.testing.assert_array_equal(again.alpha, full.alpha)


def test_only_the_best_are_refined():
    """Of all poses that were tried, wherever they lie: one no worse than without refinement, and more better still."""
    rippled = avae.CompositeLoss(
        predict=lambda x, alpha: jnp.sin(5 * alpha) + 0.3 * alpha,
        score=lambda x, u: jnp.sum((u - x) ** 2),
        curvature=lambda x, u: jnp.full_like(u, 2.0),
    )
    x = np.linspace(-2, 2, 8, dtype=np.float32)[:, None]
    settings = avae.Search(n_starts=8, top_k=3, n_local=2, n_steps=2, n_refined=1)
    one, every, none, all_tried = (
        avae.search(rippled, x, avae.Rotation(), settings=dataclasses.replace(settings, **changes))
        for changes in ({}, {"n_refined": 0}, {"n_steps": 0}, {"n_refined": 99})
    )
    assert (one.loss <= none.loss + 1e-6).all()
    assert (every.loss <= one.loss + 1e-6).all()
    assert (one.loss < none.loss - 1e-3).any()
    assert (every.loss < one.loss - 1e-6).any()
    assert (all_tried.loss <= every.loss + 1e-6).all()
    assert one.info.kept.shape == every.info.kept.shape == (8, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"starts": "random"}, r"starts of \('stratified', 'lattice', 'network'\), got 'random'"),
        ({"coarse": 0}, "coarse >= 1, got 0"),
        ({"n_full": -1}, "n_full >= 0, got -1"),
        ({"n_rounds": -1}, "n_rounds >= 0, got -1"),
        ({"memory": 0}, "memory in bytes, at least 1, or None, got 0"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        avae.Search(**settings)


def test_settings_are_static():
    assert hash(OWN) == hash(dataclasses.replace(OWN))
    assert dataclasses.replace(OWN) == OWN != OTHER
    traced = []

    def double(x, settings):
        traced.append(settings)
        return 2 * x

    jitted = jax.jit(double, static_argnames="settings")
    for settings in (OWN, dataclasses.replace(OWN), OTHER):
        jitted(np.ones(2), settings)
    assert traced == [OWN, OTHER]
