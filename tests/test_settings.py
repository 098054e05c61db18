"""Which search settings hold: those given, else the model's, else the family's."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import avae
from avae import settings
from avae.settings import DEFAULTS, TWINS, of_family, plan
from avae.transforms import FAMILIES

OWN = avae.Search(n_starts=5, top_k=2, n_local=(), n_steps=1)
OTHER = avae.Search(n_starts=6, top_k=3, n_local=(), n_steps=0)


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
    search = of_family(family)
    assert search == DEFAULTS[type(family)]
    if family.dof == 0:
        assert (search.n_starts, search.n_steps) == (len(family.lattice), 0)
    else:
        assert search.n_steps > 0
    if family.dim == 2:
        assert plan(avae.Model(networks=avae.Conv(), transform=family)).search == search
        assert plan(avae.Model(transform=family)).search == TWINS.get(type(family), search)


def test_larger_families_have_more_starts():
    planar = [DEFAULTS[FAMILIES[name]].n_starts for name in ("rotation", "rigid", "similarity", "affine")]
    spatial = [DEFAULTS[FAMILIES[name]].n_starts for name in ("cube_rotations", "rotation3d", "rigid3d", "affine3d")]
    assert planar == sorted(set(planar))
    assert spatial == sorted(set(spatial))


def test_the_order_of_settings(unset, own):
    rotation, rigid = avae.Rotation(), avae.Rigid()
    assert unset.model.transform == rotation
    assert plan(unset.model).search == TWINS[avae.Rotation]
    assert plan(unset.model, family=rigid).search == DEFAULTS[avae.Rigid]
    assert plan(unset.model, OTHER).search == OTHER
    assert plan(own.model).search == OWN
    assert plan(own.model, family=rotation).search == OWN
    assert plan(own.model, family=rigid).search == DEFAULTS[avae.Rigid]  # its own were meant for its own family
    assert plan(own.model, OTHER, rigid).search == OTHER


def test_a_mapping_updates_what_holds(unset, own):
    assert plan(own.model, {"n_steps": 6}).search == dataclasses.replace(OWN, n_steps=6)
    assert plan(unset.model, {"n_steps": 6}).search == dataclasses.replace(TWINS[avae.Rotation], n_steps=6)
    assert plan(unset.model, {}, avae.Rigid()).search == DEFAULTS[avae.Rigid]
    with pytest.raises(avae.Mistake, match="unknown setting 'n_step'; did you mean 'n_steps'"):
        plan(own.model, {"n_step": 6})
    with pytest.raises(avae.Mistake, match="unknown setting 'zzz'; known are n_starts, twin"):
        plan(own.model, {"zzz": 6})
    with pytest.raises(avae.Mistake, match=r"expected an avae\.Search, a mapping, the name of a preset or None, got 6"):
        plan(own.model, 6)


def test_align_follows_that_order(unset, own, images):
    assert starts_of(unset, images) == TWINS[avae.Rotation].n_starts
    assert starts_of(own, images) == 5
    assert starts_of(own, images, search=OTHER) == 6
    assert starts_of(own, images, search={"n_starts": 9}) == 9
    assert starts_of(own, images, transform=avae.Rigid()) == DEFAULTS[avae.Rigid].n_starts
    assert starts_of(own, images, transform=avae.Rigid(), search=OTHER) == 6
    assert starts_of(own, images, transform=avae.QuarterTurns()) == 4


def test_search_takes_those_of_the_family_or_the_papers(images):
    composite = avae.CompositeLoss(
        predict=lambda x, alpha: alpha, score=lambda x, u: (u**2).sum(), curvature=lambda x, u: 2 + 0 * u
    )
    plain = lambda x, alpha: (alpha**2).sum()  # noqa: E731

    def count(loss, settings=None):
        return jax.eval_shape(lambda x: avae.search(loss, x, avae.Rigid(), settings=settings).info.kept, images).shape[
            1
        ]

    assert count(composite) == DEFAULTS[avae.Rigid].top_k == 4
    assert count(plain) == avae.PAPER.top_k == 8
    assert count(composite, {"top_k": 3}) == count(plain, {"top_k": 3}) == 3


def test_a_family_of_one_s_own_brings_its_settings():
    @dataclasses.dataclass(frozen=True)
    class Turns(avae.Rotation):
        search = dataclasses.replace(OWN, n_starts=7)

    @dataclasses.dataclass(frozen=True)
    class Heir(avae.Rotation):
        pass

    assert plan(avae.Model(transform=Turns())).search.n_starts == 7
    assert plan(avae.Model(transform=Heir())).search == TWINS[avae.Rotation]


def test_presets_by_name():
    model = avae.Model(networks=avae.MLP(image_shape=(12, 12, 1), hidden=(8,)))
    own = plan(model).search
    assert own == TWINS[avae.Rotation]
    assert plan(model, "default").search == own
    assert plan(model, "paper").search == avae.PAPER
    dense = plan(model, "exhaustive").search
    assert (dense.n_starts, dense.twin) == (720, 1)
    fast = plan(model, "fast")
    assert not fast.proposed
    assert (fast.search.n_starts, fast.search.n_refined) == (own.n_starts, 1)
    assert (fast.search.n_local, fast.search.n_steps) < (own.n_local, own.n_steps)
    odd = avae.Model(networks=avae.MLP(image_shape=(11, 12, 1), hidden=(8,)))
    assert plan(odd).search == DEFAULTS[avae.Rotation]
    assert plan(odd, "fast").search.twin == 1
    guided = dataclasses.replace(model, pose_network=avae.PoseNetwork())
    alone = dataclasses.replace(guided, search=DEFAULTS[avae.Rotation])
    assert plan(guided, "fast").proposed
    assert not plan(guided).proposed
    assert not plan(guided, "fast", avae.Rigid()).proposed  # the network knows rotations
    assert plan(guided, "fast").search.n_starts == 5
    assert plan(alone, "fast").search.n_starts == 12  # where no twin scores
    with pytest.raises(avae.Mistake, match="one of exhaustive, paper, default, fast, got 'quick'"):
        plan(model, "quick")


def test_training_searches_less_and_never_fewer_than_32_starts():
    for search in DEFAULTS.values():
        less = settings.training(search)
        assert min(search.n_starts, 32) <= less.n_starts <= 64
        assert less.top_k <= 2
        assert less.n_steps <= 3
        assert less.solver == search.solver
    assert settings.from_memory(DEFAULTS[avae.Rigid]).n_starts == settings.N_BESIDE + 1


@pytest.mark.parametrize("top_k", [1, 2, 6])
def test_starts_scored_again_in_full(params, images, top_k):
    """More of them can only help, and all of them are as good as scoring in full."""
    search = avae.Search(n_starts=16, twin=2, top_k=1, n_local=(), n_refined=1, n_steps=0)
    again = avae.align(params, images, search=dataclasses.replace(search, top_k=top_k))
    once = avae.align(params, images, search=search)
    full = avae.align(params, images, search=dataclasses.replace(search, twin=1))
    assert (again.loss <= once.loss + 1e-5).all()
    assert (full.loss <= again.loss + 1e-5).all()
    if top_k == 6:  # 18 of 16
        np.testing.assert_array_equal(again.alpha, full.alpha)


def test_only_the_best_are_refined():
    """Of all poses that were tried, wherever they lie: one no worse than without refinement, and more better still."""
    rippled = avae.CompositeLoss(
        predict=lambda x, alpha: jnp.sin(5 * alpha) + 0.3 * alpha,
        score=lambda x, u: jnp.sum((u - x) ** 2),
        curvature=lambda x, u: jnp.full_like(u, 2.0),
    )
    x = np.linspace(-2, 2, 8, dtype=np.float32)[:, None]
    search = avae.Search(n_starts=8, top_k=3, n_local=(2,), n_steps=2, n_refined=1)
    one, few, none, all_tried = (
        avae.search(rippled, x, avae.Rotation(), settings=dataclasses.replace(search, **changes))
        for changes in ({}, {"n_refined": 3}, {"n_steps": 0}, {"n_refined": 99})
    )
    assert (one.loss <= none.loss + 1e-6).all()
    assert (few.loss <= one.loss + 1e-6).all()
    assert (one.loss < none.loss - 1e-3).any()
    assert (few.loss < one.loss - 1e-6).any()
    assert (all_tried.loss <= few.loss + 1e-6).all()
    assert one.info.kept.shape == few.info.kept.shape == (8, 3)


def test_settings_are_static():
    assert hash(OWN) == hash(dataclasses.replace(OWN))
    assert dataclasses.replace(OWN) == OWN != OTHER
    traced = []

    def double(x, settings):
        traced.append(settings)
        return 2 * x

    jitted = jax.jit(double, static_argnames="settings")
    for search in (OWN, dataclasses.replace(OWN), OTHER):
        jitted(np.ones(2), search)
    assert traced == [OWN, OTHER]
