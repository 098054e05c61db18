"""avae: the affine variational autoencoder. See README.md for the idea and `avae.align` for the heart of it."""

import importlib
from typing import TYPE_CHECKING, Any

from avae.runtime import required

required.check()  # before anything that an older Python or JAX does not have

# ruff: noqa: E402
from avae.align import align as align, search as search
from avae.generate import decode as decode, encode as encode, init as init, sample as sample
from avae.inference.bounds import log_likelihood as log_likelihood
from avae.inference.posterior import pose_posterior as pose_posterior
from avae.model import Model as Model, Params as Params
from avae.networks.mask import Mask as Mask
from avae.networks.pose_network import PoseNetwork as PoseNetwork
from avae.networks.vae import MLP as MLP, Bernoulli as Bernoulli, Conv as Conv, Gaussian as Gaussian
from avae.objective import Alignment as Alignment, objective as objective
from avae.runtime.mistake import Mistake as Mistake
from avae.settings import PAPER as PAPER, Search as Search
from avae.solvers import Adam as Adam, CompositeLoss as CompositeLoss, GaussNewton as GaussNewton
from avae.transforms import (
    Affine as Affine,
    Affine3D as Affine3D,
    CubeRotations as CubeRotations,
    Mirrored as Mirrored,
    QuarterTurns as QuarterTurns,
    Rigid as Rigid,
    Rigid3D as Rigid3D,
    Rotation as Rotation,
    Rotation3D as Rotation3D,
    Similarity as Similarity,
    Similarity3D as Similarity3D,
    Transform as Transform,
    Translation as Translation,
)
from avae.transforms.background import estimate_background as estimate_background
from avae.transforms.frame import Frame as Frame
from avae.transforms.warp import transform_points as transform_points, warp as warp

if TYPE_CHECKING:
    from avae.fitting import fit as fit
    from avae.gallery import examples as examples, figure as figure
    from avae.training.checkpoint import load as load
    from avae.training.distill import distill as distill
    from avae.training.packed import SHIPPED as SHIPPED

# What trains, reads and draws is imported when it is first asked for: aligning needs none of its libraries.
_LATER = {
    "fit": "avae.fitting",
    "examples": "avae.gallery",
    "figure": "avae.gallery",
    "load": "avae.training.checkpoint",
    "distill": "avae.training.distill",
    "SHIPPED": "avae.training.packed",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'avae' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_LATER[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
