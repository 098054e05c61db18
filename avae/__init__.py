"""avae: the affine variational autoencoder. See README.md for the idea and `avae.align` for the heart of it."""

from avae.align import Alignment as Alignment
from avae.align import align as align
from avae.align import search as search
from avae.checkpoint import load as load
from avae.generate import decode as decode
from avae.generate import encode as encode
from avae.generate import sample as sample
from avae.model import PAPER as PAPER
from avae.model import Model as Model
from avae.model import Params as Params
from avae.model import Search as Search
from avae.model import init as init
from avae.objective import objective as objective
from avae.solvers import CompositeLoss as CompositeLoss
from avae.transforms import Rigid as Rigid
from avae.transforms import Rotation as Rotation
from avae.transforms import Transform as Transform
from avae.vae import MLP as MLP
from avae.vae import Bernoulli as Bernoulli
from avae.vae import Conv as Conv
from avae.vae import Gaussian as Gaussian
from avae.warp import warp as warp
