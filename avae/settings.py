"""Settings of the pose search, and how much memory it may take. The measured default of each family stands with it."""

import dataclasses

import jax

from avae.runtime.mistake import Mistake

SOLVERS = ("gauss_newton", "adam")
STARTS = ("stratified", "lattice", "network")
PRECISIONS = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Search:
    """Settings of the pose search (`avae.search`, `avae.align`): starts, rounds of subdivision, refinement, memory.

    Attributes:
      n_starts: stratified poses that are scored, the identity among them.
      starts: "stratified", or "lattice": the family's finite subgroup instead (4 quarter turns in the plane, the 24
        rotations of the cube in space), tried exhaustively and then refined in the whole family; or "network": the
        identity, and the poses that a pose network proposes for each image (see `avae.PoseNetwork`).
      coarse: starts are scored on images reduced by this factor (mean of `coarse`^d pixels); 1 for full resolution.
      n_full: of starts scored at reduced resolution, how many of the best are scored again in full, with the identity
        besides; at least top_k.
      top_k: how many starts are kept.
      n_local: poses tried around each kept start, within its cell, before refinement: interpolation ripples J by up
        to a nat every few degrees, which the gradient alone does not cross.
      n_rounds: how often that is done, each time in the cell of a pose of the round before.
      n_refined: how many poses are refined, the best of all that were tried around the kept starts; 0 for the best one
        around each of them.
      n_steps: refinement steps; 0 keeps the best start as it is.
      solver: "gauss_newton" (damped, forward mode) or "adam" (the paper's).
      learning_rate: Adam's step size, in radians and half-widths.
      damping: Gauss-Newton's first Levenberg-Marquardt damping, relative to the curvature.
      precision: in which the networks compute while poses are scored and refined, "float32" or "bfloat16"; the loss and
        the curvature of the pose that is returned are float32's.
      chunk: starts scored at a time; few keep the coarse stage in cache.
      memory: bytes that the search may take on a device; a batch that needs more goes through in parts. None for 2 GiB
        on a CPU and half of the device's memory elsewhere.
    """

    n_starts: int = 32
    starts: str = "stratified"
    coarse: int = 1
    n_full: int = 0
    top_k: int = 2
    n_local: int = 4
    n_rounds: int = 1
    n_refined: int = 0
    n_steps: int = 4
    solver: str = "gauss_newton"
    learning_rate: float = 0.03
    damping: float = 0.01
    precision: str = "float32"
    chunk: int = 4
    memory: int | None = None

    def __post_init__(self) -> None:
        for name in ("n_starts", "coarse", "chunk"):
            if getattr(self, name) < 1:
                raise Mistake(f"search expects {name} >= 1, got {getattr(self, name)}")
        for name in ("n_full", "n_local", "n_rounds", "n_refined", "n_steps"):  # 0: none
            if getattr(self, name) < 0:
                raise Mistake(f"search expects {name} >= 0, got {getattr(self, name)}")
        if not 1 <= self.top_k <= self.n_starts:
            raise Mistake(f"search expects 1 <= top_k <= n_starts, got top_k={self.top_k}, n_starts={self.n_starts}")
        for name, allowed in (("solver", SOLVERS), ("starts", STARTS), ("precision", PRECISIONS)):
            if getattr(self, name) not in allowed:
                raise Mistake(f"search expects {name} of {allowed}, got {getattr(self, name)!r}")
        if not (self.learning_rate > 0 and self.damping > 0):
            raise Mistake(
                f"search expects learning_rate > 0 and damping > 0, got {self.learning_rate} and {self.damping}"
            )
        if self.memory is not None and self.memory < 1:
            raise Mistake(f"search expects memory in bytes, at least 1, or None, got {self.memory}")

    @property
    def budget(self) -> int:
        """`memory`, or the default of the device at hand, in bytes."""
        if self.memory is not None:
            return self.memory
        limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
        return 2 * 2**30 if limit is None else limit // 2


PAPER = Search(n_starts=32, top_k=8, n_local=0, n_steps=20, solver="adam", learning_rate=0.03)


def preset(name: str, search: Search, network: bool) -> Search:
    """A named variant of the settings of a family or a model; docs/performance.md has the cost and the loss of each.

    Args:
      name: "default" (`search` itself), "paper" (`PAPER`), "exhaustive" (at least 720 starts, the best eight refined),
        or "fast" (few starts, those that a pose network proposes where there is one, fewest where the model's own
        search scores by a twin; only the best is refined, in two steps).
      search: those settings.
      network: whether the model has a pose network.

    Raises:
      Mistake: for another name.
    """
    fast = {"n_refined": 1, "n_local": search.n_local // 2, "n_steps": min(search.n_steps, 2)}
    if network:
        n_starts, top_k, n_local = (5, 1, 2) if search.coarse > 1 else (12, 2, 3)  # docs/performance.md, "presets"
        fast |= {"starts": "network", "n_starts": n_starts, "coarse": 1}
        fast |= {"top_k": top_k, "n_local": n_local, "n_rounds": 1}
    presets = {
        "exhaustive": dataclasses.replace(
            search, n_starts=max(720, 4 * search.n_starts), coarse=1, top_k=8, n_refined=0, n_steps=10
        ),
        "paper": PAPER,
        "default": search,
        "fast": dataclasses.replace(search, **fast),
    }
    if name not in presets:
        raise Mistake(f"search: expected an avae.Search or one of {', '.join(presets)}, got {name!r}")
    return presets[name]
