"""Networks for faces, images to raw vectors: plain convolutions for small sets of faces, residual ones for large sets.

Normalising pixels and vectors, and averaging over flips, is left to ``embedder``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn


@dataclass(frozen=True)
class BackboneSpec:
    """The shape of a network."""

    family: Literal["plain", "iresnet"]
    """plain: convolutions and maximum pooling (Simonyan and Zisserman 2015, "VGG"); iresnet: the improved residual form
    of ArcFace's reference code (Deng et al. 2019, sec. 3.1; Duta et al. 2020, arXiv:2004.04989)."""
    widths: tuple[int, ...]
    """Channels a stage; each stage halves the side."""
    depths: tuple[int, ...]
    """Convolutions (plain) or residual blocks (iresnet) a stage."""
    activation: Literal["prelu", "relu"]
    """prelu has a learnt slope a channel; relu is a third faster to train on CPUs."""
    norm: Literal["group", "batch"]
    """group: a face's vector does not depend on its batch, so that training is the same at every world size."""
    dim: int
    """Components of an embedding."""


_Shape = tuple[Literal["plain", "iresnet"], tuple[int, ...], tuple[int, ...], Literal["prelu", "relu"]]

# One entry a size that the command offers. The first is this project's own: on a few thousand pictures it learns more
# than a residual network of the same cost. The others have the published shapes, whose weights from elsewhere fit but
# for the names.
SIZES: dict[str, _Shape] = {
    "plain": ("plain", (32, 64, 128, 192), (1, 1, 1, 1), "relu"),
    "iresnet18": ("iresnet", (64, 128, 256, 512), (2, 2, 2, 2), "prelu"),
    "iresnet50": ("iresnet", (64, 128, 256, 512), (3, 4, 14, 3), "prelu"),
    "iresnet100": ("iresnet", (64, 128, 256, 512), (3, 13, 30, 3), "prelu"),
}


def spec(size: str, *, norm: Literal["group", "batch"], dim: int) -> BackboneSpec:
    """The spec of a named size. Raises ValueError when there is no such size or dim is out of range."""
    if size not in SIZES:
        raise ValueError(f"unknown backbone {size!r}; there are {', '.join(SIZES)}")
    if not 8 <= dim <= 4096:
        raise ValueError(f"embedding size must be 8 to 4096, got {dim}")
    family, widths, depths, activation = SIZES[size]
    return BackboneSpec(family, widths, depths, activation, norm, dim)


class Backbone(nn.Module):
    """(B, C, S, S) pictures to (B, D) vectors of any length."""

    def __init__(self, spec: BackboneSpec, *, channels: int, size: int) -> None:
        super().__init__()
        layers = _plain(spec, channels) if spec.family == "plain" else _iresnet(spec, channels)
        self.body = nn.Sequential(*layers)
        side = -(-size // 2 ** len(spec.widths))
        # Flattened, not pooled: in cropped faces, where something lies says what it is.
        self.head = nn.Linear(spec.widths[-1] * side * side, spec.dim)
        _initialise(self)

    def forward(self, x_BCSS: torch.Tensor) -> torch.Tensor:
        """float (B, C, S, S) to float (B, D)."""
        return self.head(self.body(x_BCSS).flatten(1))


def _plain(spec: BackboneSpec, entering: int) -> Iterator[nn.Module]:
    for width, depth in zip(spec.widths, spec.depths):
        for _ in range(depth):
            yield from (nn.Conv2d(entering, width, 3, 1, 1, bias=False), _norm(spec, width), _activation(spec, width))
            entering = width
        yield nn.MaxPool2d(2, ceil_mode=True)


def _iresnet(spec: BackboneSpec, entering: int) -> Iterator[nn.Module]:
    first = spec.widths[0]
    yield from (nn.Conv2d(entering, first, 3, 1, 1, bias=False), _norm(spec, first), _activation(spec, first))
    entering = first
    for width, depth in zip(spec.widths, spec.depths):
        for block in range(depth):
            yield _Block(spec, entering, width, stride=2 if block == 0 else 1)
            entering = width
    yield _norm(spec, entering)


class _Block(nn.Module):
    """norm, conv, norm, activation, conv (strided), norm; added to a projected shortcut where the shape changes."""

    def __init__(self, spec: BackboneSpec, entering: int, width: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _norm(spec, entering),
            nn.Conv2d(entering, width, 3, 1, 1, bias=False),
            _norm(spec, width),
            _activation(spec, width),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            _norm(spec, width),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or entering != width:
            self.shortcut = nn.Sequential(nn.Conv2d(entering, width, 1, stride, bias=False), _norm(spec, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.residual(x) + self.shortcut(x)


def _norm(spec: BackboneSpec, channels: int) -> nn.Module:
    if spec.norm == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(max(1, channels // 16), channels)


def _activation(spec: BackboneSpec, channels: int) -> nn.Module:
    return nn.PReLU(channels) if spec.activation == "prelu" else nn.ReLU(inplace=True)


def _initialise(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.xavier_normal_(module.weight)
            nn.init.zeros_(module.bias)
