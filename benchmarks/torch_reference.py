"""The search of Bidart & Wong (2019) in PyTorch: the reference that `benchmarks/align.py` measures against.

    alpha*(x) = argmin_alpha J(alpha; x)

The same VAE (weights exported from `avae`), the same J and the same starts; 32 starts scored without gradients, the
best 8 of each image refined together by Adam, with gradients to the pose only. The best iterate of each image counts.
Rotations and the Bernoulli likelihood only; eager mode, as `torch.compile` took a minute on a CPU and gained nothing.
Images are [B, C, H, W] here, poses are angles [B] in radians.
"""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Any]  # {"encoder": {layer: {name: tensor}}, "decoder": ...}, as in `Params.weights`

FLOOR = 1e-4  # pixel means are clamped to [FLOOR, 1 - FLOOR]


def load(weights: Weights, device: str = "cpu") -> Weights:
    """The weights of an `avae.MLP` or `avae.Conv` as tensors: dense kernels stay [in, out], HWIO becomes OIHW."""
    if isinstance(weights, dict):
        return {name: load(value, device) for name, value in weights.items()}
    tensor = torch.tensor(np.asarray(weights), device=device)
    return tensor.permute(3, 2, 0, 1).contiguous() if tensor.ndim == 4 else tensor


def search(
    weights: Weights, x: Tensor, n_starts: int = 32, top_k: int = 8, n_steps: int = 20, lr: float = 0.03
) -> tuple[Tensor, Tensor]:
    """The best angle seen for each image and its J: starts -> scores -> top k -> Adam -> best.

    Args:
      weights: from `load`.
      x: images [B, C, H, W] in [0, 1].
      n_starts: angles scored, equally spaced, the identity first.
      top_k: how many of them are refined, per image.
      n_steps: Adam steps.
      lr: Adam's step size in radians.

    Returns:
      alpha [B] in [-pi, pi) and loss [B] in nats.
    """
    starts = torch.arange(n_starts, device=x.device) * (2 * math.pi / n_starts)
    with torch.no_grad():
        scores = torch.stack([objective(weights, x, start.expand(len(x))) for start in starts], dim=1)
    kept = scores.topk(top_k, dim=1, largest=False)

    repeated = x.repeat_interleave(top_k, dim=0)  # image i owns rows i * top_k to (i + 1) * top_k - 1
    alpha = starts[kept.indices].flatten().requires_grad_()
    best_alpha, best_loss = alpha.detach().clone(), kept.values.flatten()
    optimizer = torch.optim.Adam([alpha], lr=lr)
    for _ in range(n_steps):
        loss = objective(weights, repeated, alpha)
        best_alpha, best_loss = _better(best_alpha, best_loss, alpha.detach(), loss.detach())
        (alpha.grad,) = torch.autograd.grad(loss.sum(), alpha)
        optimizer.step()
    with torch.no_grad():
        best_alpha, best_loss = _better(best_alpha, best_loss, alpha, objective(weights, repeated, alpha))

    loss, winner = best_loss.view(-1, top_k).min(dim=1, keepdim=True)
    alpha = best_alpha.view(-1, top_k).gather(1, winner)
    return ((alpha + math.pi) % (2 * math.pi) - math.pi).squeeze(1), loss.squeeze(1)


def objective(weights: Weights, x: Tensor, alpha: Tensor | None = None) -> Tensor:
    """J(alpha; x) in nats [B], z at the posterior mean; without `alpha` no warp, a plain VAE."""
    canonical = x if alpha is None else warp(x, alpha)
    mu, logvar = encode(weights["encoder"], canonical)
    mean = decode(weights["decoder"], mu, x.shape).sigmoid()
    mean = (mean if alpha is None else warp(mean, -alpha)).clamp(FLOOR, 1 - FLOOR)
    reconstruction = F.binary_cross_entropy(mean, x, reduction="none").flatten(1).sum(1)
    return reconstruction + 0.5 * (mu**2 + logvar.exp() - logvar - 1).sum(1)


def warp(x: Tensor, alpha: Tensor) -> Tensor:
    """Turns each image counter-clockwise by its angle, as `avae.warp` with `avae.Rotation`."""
    c, s, zero = alpha.cos(), alpha.sin(), torch.zeros_like(alpha)
    matrix = torch.stack([c, -s, zero, s, c, zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="zeros", align_corners=False)


def encode(weights: Weights, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance of q(z | x), [B, z] each."""
    if "Conv_0" in weights:
        for i, stride in enumerate((1, 2, 2, 1)):
            x = _conv_block(weights, i, x, stride)
        h = _linear(weights["Dense_0"], x.permute(0, 2, 3, 1).flatten(1))
    else:
        h = _dense(weights, x.permute(0, 2, 3, 1).flatten(1))
    mu, logvar = h.chunk(2, dim=1)
    return mu, logvar


def decode(weights: Weights, z: Tensor, shape: torch.Size) -> Tensor:
    """Logits [B, C, H, W] for z [B, z]."""
    _, channels, height, width = shape
    if "Conv_0" not in weights:
        return _dense(weights, z).view(-1, height, width, channels).permute(0, 3, 1, 2)
    h = F.elu(_linear(weights["Dense_0"], z)).view(-1, height // 4, width // 4, 16).permute(0, 3, 1, 2)
    h = _conv_block(weights, 0, h)
    h = _depth_to_space(_conv_block(weights, 1, h))
    h = _depth_to_space(_conv_block(weights, 2, h))
    return _conv(weights["Conv_3"], h)


def _dense(weights: Weights, h: Tensor) -> Tensor:
    for i in range(len(weights) - 1):
        h = F.silu(_linear(weights[f"Dense_{i}"], h))
    return _linear(weights[f"Dense_{len(weights) - 1}"], h)


def _linear(layer: Weights, h: Tensor) -> Tensor:
    return torch.addmm(layer["bias"], h, layer["kernel"])


def _conv_block(weights: Weights, i: int, h: Tensor, stride: int = 1) -> Tensor:
    norm = weights[f"GroupNorm_{i}"]
    h = _conv(weights[f"Conv_{i}"], h, stride)
    return F.elu(F.group_norm(h, 1, norm["scale"], norm["bias"], eps=1e-6))


def _conv(layer: Weights, h: Tensor, stride: int = 1) -> Tensor:
    """3x3 convolution with XLA's SAME padding: at stride 2 an even side is padded at its end only."""
    if stride == 1:
        return F.conv2d(h, layer["kernel"], layer["bias"], padding=1)
    return F.conv2d(F.pad(h, (0, 1, 0, 1)), layer["kernel"], layer["bias"], stride=stride)


def _depth_to_space(h: Tensor) -> Tensor:
    """[B, 4 C, H, W] -> [B, C, 2 H, 2 W], channels ordered as in `avae.networks.convolution.depth_to_space`."""
    batch, channels, height, width = h.shape
    h = h.view(batch, 2, 2, channels // 4, height, width).permute(0, 3, 4, 1, 5, 2)
    return h.reshape(batch, channels // 4, 2 * height, 2 * width)


def _better(best_alpha: Tensor, best_loss: Tensor, alpha: Tensor, loss: Tensor) -> tuple[Tensor, Tensor]:
    falls = loss < best_loss
    return torch.where(falls, alpha, best_alpha), torch.where(falls, loss, best_loss)
