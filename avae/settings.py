"""Settings of the pose search: every default in one table, and which of them holds for a call."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from avae.networks.likelihoods import Gaussian
from avae.runtime.mistake import Mistake, at_least, suggestion
from avae.settle import least
from avae.solvers import Adam, GaussNewton, Solver
from avae.transforms import (
    Affine,
    Affine3D,
    CubeRotations,
    Mirrored,
    QuarterTurns,
    Rigid,
    Rigid3D,
    Rotation,
    Rotation3D,
    Similarity,
    Similarity3D,
    Transform,
    Translation,
)


@dataclasses.dataclass(frozen=True)
class Search:
    """A complete description of the pose search; to change some of what holds, pass a mapping to `align` instead.

    Attributes:
      n_starts: starts that are scored, the identity among them.
      twin: starts are scored by the networks' smaller twin, on means over `twin`^d pixels, and the best 3 `top_k` of
        them and the identity again in full; 1 scores all of them in full.
      top_k: how many starts are kept.
      n_local: poses tried around each kept start within its cell, one entry per round; the next round tries them in the
        smaller cell around the best. Interpolation ripples J by up to a nat every few degrees, which the gradient alone
        does not cross.
      n_refined: how many poses are refined: the best of all that were tried around the kept starts.
      n_steps: refinement steps; 0 keeps the best pose tried as it is.
      n_settle: poses around the best to which a parabola is fitted, at whose minimum `avae.align` puts the pose; 0
        keeps the pose of least J, as training does. Better under noise, for a J higher by a ripple (`avae.settle`).
      solver: `GaussNewton(damping=)` or the paper's `Adam(learning_rate=)`.
    """

    n_starts: int = 32
    twin: int = 1
    top_k: int = 2
    n_local: tuple[int, ...] = (4,)
    n_refined: int = 2
    n_steps: int = 4
    n_settle: int = 0
    solver: Solver = GaussNewton()

    def __post_init__(self) -> None:
        at_least("search", self, n_starts=1, twin=1, top_k=1, n_refined=1, n_steps=0, n_settle=0)
        if not isinstance(self.n_local, tuple) or any(not isinstance(n, int) or n < 1 for n in self.n_local):
            raise Mistake(f"search.n_local: expected a tuple of numbers >= 1, one per round, got {self.n_local!r}")
        if self.top_k > self.n_starts:
            raise Mistake(f"search.top_k: expected at most n_starts, {self.n_starts}, got {self.top_k}")
        if not isinstance(self.solver, Solver):
            raise Mistake(f"search.solver: expected avae.GaussNewton() or avae.Adam(), got {self.solver!r}")


SOLVERS: dict[str, Any] = {"gauss_newton": GaussNewton, "adam": Adam}
PAPER = Search(n_starts=32, top_k=8, n_local=(), n_refined=8, n_steps=20, solver=Adam(0.03))

# The default of each family. Behind each: how many of 500 poses of noise-free images it recovers
# (benchmarks/results/recovery*.md), or how far J lies above PyTorch's search, in nats (docs/performance.md).
DEFAULTS: dict[type[Transform], Search] = {
    QuarterTurns: Search(n_starts=4, top_k=1, n_local=(), n_refined=1, n_steps=0),  # exhaustive
    CubeRotations: Search(n_starts=24, top_k=1, n_local=(), n_refined=1, n_steps=0),  # exhaustive
    Rotation: Search(n_starts=32, top_k=4, n_local=(6,), n_refined=4, n_steps=4),  # 100 %; conv: J + 0.006
    Translation: Search(n_starts=32, top_k=4, n_local=(), n_refined=4, n_steps=10),  # 100 %
    Rigid: Search(n_starts=64, top_k=4, n_local=(4, 4), n_refined=4, n_steps=6),  # 98.6 %
    Similarity: Search(n_starts=128, top_k=8, n_local=(4, 4), n_refined=8, n_steps=8),  # 98.0 %
    Affine: Search(n_starts=512, top_k=8, n_local=(4, 4), n_refined=8, n_steps=12),  # 99.6 %
    Rotation3D: Search(n_starts=128, top_k=4, n_local=(), n_refined=4, n_steps=8),  # 99.6 %
    Rigid3D: Search(n_starts=512, top_k=16, n_local=(), n_refined=16, n_steps=10),  # 97.6 %
    Similarity3D: Search(n_starts=1024, top_k=8, n_local=(4,), n_refined=8, n_steps=15),  # 97.2 %
    Affine3D: Search(n_starts=1024, top_k=16, n_local=(4,), n_refined=16, n_steps=20),  # 98.8 %
}

# The same for networks that have a smaller twin.
TWINS: dict[type[Transform], Search] = {
    Rotation: Search(48, twin=2, top_k=3, n_local=(4,), n_refined=2, n_steps=3, solver=GaussNewton(0.1)),  # J + 0.001
}

# The same for Gaussian pixels where J slides: the pose settles, poses around the starts find nothing more (J + 0.2).
NOISY: dict[type[Transform], Search] = {Rigid: Search(64, top_k=4, n_local=(), n_refined=1, n_steps=3)}

ALONE = Search(n_starts=1, top_k=1, n_local=(), n_refined=1, n_steps=0)  # a finite family tries all its elements anyway
SETTLE = 20  # poses per direction: with 64 for three the error of angles of noisy particles falls by 40 %
N_BESIDE = 4  # strata beside a remembered pose


def of_family(
    family: Transform, reducible: Callable[[int], bool] = lambda factor: False, noisy: bool = False
) -> Search:
    """The settings of a family: its own attribute `search`, if its author gave it one, else those of the table.

    With mirror images twice the starts, the starts kept and the poses refined: those of the wrong hand may be ahead.

    Args:
      family: a family of poses.
      reducible: whether the networks have a twin for images at a `factor`-th of the resolution.
      noisy: whether pixels are Gaussian and J slides.
    """
    if isinstance(family, Mirrored):
        return _both_hands(of_family(family.family, reducible, noisy))
    for cls in type(family).__mro__:
        if isinstance(own := vars(cls).get("search"), Search):
            return own
        if cls in TWINS and reducible(TWINS[cls].twin):
            return TWINS[cls]
        if cls in DEFAULTS:
            return NOISY.get(cls, DEFAULTS[cls]) if noisy else DEFAULTS[cls]
    return ALONE if family.dof == 0 else Search()


def training(search: Search, slides: bool = False) -> Search:
    """The search inside a training step, from that of inference: fewer poses, fewer steps, and at most 64 starts.

    Never fewer than 32 starts, each drawn anew in its stratum at every step: half as many leave more classes of digits
    at two orientations. Where J `slides`, no poses are tried around the starts, but four starts are kept: the encoder
    first sees them off their centre, and too many of the best two are wrong. With 32 starts in place of 64 the poses of
    particles drift (docs/results.md).
    """
    return dataclasses.replace(
        search,
        n_starts=min(search.n_starts, 64),
        top_k=min(search.top_k, 4 if slides else 2),
        n_local=() if slides else tuple(min(n, 4) for n in search.n_local),
        n_refined=min(search.n_refined, 2),
        n_steps=min(search.n_steps, 3),
    )


def training_of(model: Any) -> Search:
    """The search of a model inside a training step; with mirror images, as for `of_family`."""
    family, slides = model.transform, can_slide(model, model.transform)
    if isinstance(family, Mirrored):
        return _both_hands(training(of_family(family.family), slides))
    return training(of_family(family), slides)


def can_slide(model: Any, family: Transform) -> bool:
    """Whether all shifts, of a pixel or more, are scored at once (`avae.slide`): a correlation gives the likelihood."""
    if family.shifts == 0 or not hasattr(model.likelihood, "natural"):
        return False
    return model.image_shape is None or family.farthest * min(model.image_shape[:-1]) >= 2


def from_memory(search: Search) -> Search:
    """The search from a remembered pose: it and a few strata are scored, and the best is refined by one step."""
    return dataclasses.replace(
        search, n_starts=N_BESIDE + 1, top_k=1, n_local=(), n_refined=1, n_steps=min(search.n_steps, 1)
    )


def preset(name: str, search: Search, network: bool) -> Search:
    """A named variant of the settings of a family or a model; docs/performance.md has the cost and the loss of each.

    Args:
      name: "default" (`search` itself), "paper" (`PAPER`), "exhaustive" (at least 720 starts, eight refined), or
        "fast" (half the poses around, one refined by two steps; with a pose network, few starts that it proposes).
      search: those settings.
      network: whether the model has a pose network. Another name raises Mistake.
    """
    halved = tuple(n // 2 for n in search.n_local if n > 1)
    fast: dict[str, Any] = {"n_local": halved, "n_refined": 1, "n_steps": min(search.n_steps, 2)}
    if network and search.twin > 1:  # J + 0.094
        fast |= {"n_starts": 5, "twin": 1, "top_k": 1, "n_local": (2,)}
    elif network:  # conv: J + 0.097
        fast |= {"n_starts": 12, "twin": 1, "top_k": 2, "n_local": (3,)}
    dense = {"n_starts": max(720, 4 * search.n_starts), "twin": 1, "top_k": 8, "n_refined": 8, "n_steps": 10}
    presets = {"exhaustive": dense, "paper": dataclasses.asdict(PAPER), "default": {}, "fast": fast}
    if name not in presets:
        raise Mistake(f"search: expected settings, a mapping or one of {', '.join(presets)}, got {name!r}")
    return PAPER if name == "paper" else dataclasses.replace(search, **presets[name])


class Plan(NamedTuple):
    """The settings of a call, whether the model's pose network proposes the starts, and how far from known ones."""

    search: Search
    proposed: bool
    within: tuple[float, ...] | None = None


def plan(model: Any, search: Search | Mapping[str, Any] | str | None = None, family: Any = None) -> Plan:
    """Which settings hold: those given, else the model's own for its own family, else those of the family.

    Args:
      model: an `avae.Model`.
      search: a complete `Search`; a mapping, which updates what holds; the name of a `preset`; or None.
      family: the family searched; None for the model's.

    Raises:
      Mistake: for an unknown name, or a twin that the networks do not have.
    """
    family = family or model.transform
    own: Any = model.search if family == model.transform else None
    if own is None:
        noisy = isinstance(model.likelihood, Gaussian)  # as real images are
        own = of_family(family, model.reducible, noisy and can_slide(model, family))
        if noisy:
            own = dataclasses.replace(own, n_settle=SETTLE * family.dof)
    network = model.pose_network is not None and family == model.transform
    if isinstance(search, str):
        settings = preset(search, own, network)
    elif isinstance(search, Mapping):
        settings = updated(own, search)
    else:
        settings = own if search is None else search
    if not isinstance(settings, Search):
        raise Mistake(f"search: expected an avae.Search, a mapping, the name of a preset or None, got {search!r}")
    if settings.twin > 1 and not model.reducible(settings.twin):
        raise Mistake(
            f"search.twin: expected 1, or a divisor of the sides of images {model.image_shape} for networks with a "
            f"smaller twin (`reduced`), got {settings.twin} for {type(model.networks).__name__}"
        )
    if family.dof and 0 < settings.n_settle < least(family.dof):
        expected = f"expected 0 or at least {least(family.dof)} poses for {family.dof} directions"
        raise Mistake(f"search.n_settle: {expected}, got {settings.n_settle}")
    return Plan(settings, network and search == "fast")


def updated(search: Search, changes: Mapping[str, Any]) -> Search:
    """`search` with some settings changed.

    Raises:
      Mistake: for a setting that there is not, with a suggestion.
    """
    known = [field.name for field in dataclasses.fields(Search)]
    for name in changes:
        if name not in known:
            hint = suggestion(name, known, f"; known are {', '.join(known)}")
            raise Mistake(f"search: unknown setting {name!r}{hint}")
    return dataclasses.replace(search, **changes)


def _both_hands(search: Search) -> Search:
    """The search of a family with its mirror images, from that of the family.

    It recovers 97.3 % of 300 rigid poses of digits, half of them mirrored; that of the family alone 86.0 %.
    """
    twice = {name: 2 * getattr(search, name) for name in ("n_starts", "top_k", "n_refined")}
    return dataclasses.replace(search, **twice)
