"""Particle images with known poses, and the noise limit of their angles."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np

MEDIAN = 0.6745  # of |e|, e ~ N(0, 1)


class Particles(NamedTuple):
    """Images [N, side, side, 1], standardised one by one, and what they show.

    Attributes:
      images: what a microscope would give, less its mean, over its standard deviation.
      pose: of each object [N, 3], as `avae.Rigid` has it: image = warp(object, Rigid().matrix(pose)).
      label: which object it is [N].
      mirrored: whether it is seen in a mirror [N].
      limit: Cramer-Rao bound of the standard deviation of the angle, in radians [N].
    """

    images: np.ndarray
    pose: np.ndarray
    label: np.ndarray
    mirrored: np.ndarray
    limit: np.ndarray


@dataclasses.dataclass(frozen=True)
class Stack:
    """A particle stack as it is asked for: signal-to-noise ratio, objects, and the spread of shift and brightness."""

    n: int = 4000
    side: int = 48
    snr: float = 0.5
    objects: int = 4
    shift: float = 0.1
    brightness: float = 0.2
    mirrored: float = 0.0
    seed: int = 0

    def make(self) -> Particles:
        """Draws objects and images; the same for the same description."""
        rng, objects = _objects(self)
        label, angle = rng.integers(self.objects, size=self.n), rng.uniform(0, 2 * math.pi, self.n)
        shift, mirrored = rng.uniform(-self.shift, self.shift, (self.n, 2)), rng.uniform(size=self.n) < self.mirrored
        seen = [_view(*objects[i], *rest, self.side) for i, *rest in zip(label, angle, shift, mirrored, strict=True)]
        clean = np.stack([picture for picture, _ in seen])
        gain, offset = np.exp(rng.normal(0, self.brightness, self.n)), rng.normal(0, self.brightness, self.n)
        noise = clean.std() / math.sqrt(self.snr)
        images = gain[:, None, None] * clean + offset[:, None, None] + rng.normal(0, noise, clean.shape)
        images -= images.mean((1, 2), keepdims=True)
        images /= images.std((1, 2), keepdims=True)
        limit = [_limit(picture, slopes, noise) for picture, slopes in seen]
        cos, sin = np.cos(angle), np.sin(angle)
        x, y = shift.T
        pose = np.stack([angle, sin * y - cos * x, -sin * x - cos * y], axis=1)  # what takes the move and turn back
        return Particles(images[..., None].astype(np.float32), pose, label, mirrored, np.array(limit))


def shown(stack: Stack, which: int, angle: float) -> np.ndarray:
    """The picture [side, side] of one object of a stack, turned by an angle, without noise or shift."""
    _, objects = _objects(stack)
    return _view(*objects[which], angle, np.zeros(2), False, stack.side)[0]


def _objects(stack: Stack) -> tuple[np.random.Generator, list[tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """The objects of a stack, and the generator that goes on to draw their poses."""
    rng = np.random.default_rng(stack.seed)
    return rng, [_object(rng) for _ in range(stack.objects)]


def _object(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nine blobs: places [9, 2] around their centre, widths [9] in half-widths, heights [9]."""
    radius, turn = 0.6 * np.sqrt(rng.uniform(size=9)), rng.uniform(0, 2 * math.pi, 9)
    places = radius[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    return places - places.mean(0), rng.uniform(0.06, 0.14, 9), rng.uniform(0.5, 1.0, 9)


def _view(
    places: np.ndarray,
    widths: np.ndarray,
    heights: np.ndarray,
    angle: float,
    shift: np.ndarray,
    mirrored: bool,
    side: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The picture [side, side] of an object at a pose, and its slopes [3, side, side]: by angle, shift x, shift y."""
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])  # y points down
    x, y = ((places * [-1 if mirrored else 1, 1]) @ turn.T).T
    grid = (np.arange(side) + 0.5) * 2 / side - 1
    dx = grid[None, None] - (x + shift[0])[:, None, None]
    dy = grid[None, :, None] - (y + shift[1])[:, None, None]
    spot = heights[:, None, None] * np.exp(-(dx**2 + dy**2) / (2 * widths[:, None, None] ** 2))
    by_x, by_y = (spot * d / widths[:, None, None] ** 2 for d in (dx, dy))
    by_angle = by_x * y[:, None, None] - by_y * x[:, None, None]
    return spot.sum(0), np.stack([by_angle.sum(0), by_x.sum(0), by_y.sum(0)])


def _limit(picture: np.ndarray, slopes: np.ndarray, noise: float) -> float:
    """Cramer-Rao bound of the angle's standard deviation where shift, gain and offset are unknown as well."""
    columns = np.stack([*slopes, picture, np.ones_like(picture)]).reshape(5, -1)
    return float(np.sqrt(np.linalg.inv(columns @ columns.T)[0, 0]) * noise)
