"""Transform families: what a pose `alpha` means.

A family turns a pose `alpha` [size] into a pull map `matrix` [dim, dim+1] (see `avae.warp`). Its prior, its stratified
starts and its geometry follow from the `factors` of its poses (see `factors.py`); the family adds the matrix. Families
are small frozen dataclasses. They are hashable, and so static under `jit`, and written for one pose; batches are a
`vmap`.

Sign of the angle: `warp(x, rotation.matrix(alpha))` turns the picture counter-clockwise by `alpha` radians as seen on
a screen (y down); a quarter turn equals `numpy.rot90`. In 3D a rotation vector along +z turns x-y slices the same way.
Every linear part is R @ U. U is upper triangular with a positive diagonal: it scales and shears, and R then rotates.
So no pose is singular or mirrored; `Mirrored` adds the mirror images of any family. A pull map with scale s reads a
region s times as large: the picture shrinks.
"""

from avae.transforms.family import Transform as Transform, check_family as check_family
from avae.transforms.mirrored import Mirrored as Mirrored
from avae.transforms.planar import Affine, QuarterTurns, Rigid, Rotation, Similarity, Translation
from avae.transforms.spatial import Affine3D, CubeRotations, Rigid3D, Rotation3D, Similarity3D
from avae.transforms.strata import spread as spread

FAMILIES: dict[str, type[Transform]] = {
    "quarter_turns": QuarterTurns,
    "rotation": Rotation,
    "translation": Translation,
    "rigid": Rigid,
    "similarity": Similarity,
    "affine": Affine,
    "cube_rotations": CubeRotations,
    "rotation3d": Rotation3D,
    "rigid3d": Rigid3D,
    "similarity3d": Similarity3D,
    "affine3d": Affine3D,
}
