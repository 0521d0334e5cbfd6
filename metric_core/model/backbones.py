"""Networks that turn faces into raw vectors: plain convolutions for small data sets, residual networks for large ones.

Normalising pixels and vectors, and averaging over mirror images, is in ``embedder``.
"""

from collections.abc import Iterator

import torch
from torch import nn

from metric_core.model.spec import BackboneSpec


class Backbone(nn.Module):
    """Pictures (B, C, S, S) to vectors (B, D), not normalised."""

    def __init__(self, spec: BackboneSpec, *, channels: int, size: int) -> None:
        super().__init__()
        layers = _plain(spec, channels) if spec.family == "plain" else _iresnet(spec, channels)
        self.body = nn.Sequential(*layers)
        side = -(-size // 2 ** len(spec.widths))
        # Flattened, not pooled: in cropped faces the position of a feature carries information.
        self.head = nn.Linear(spec.widths[-1] * side * side, spec.dim)
        _initialise(self)

    def forward(self, x_BCSS: torch.Tensor) -> torch.Tensor:
        """float (B, C, S, S) to float (B, D)."""
        raw_BD: torch.Tensor = self.head(self.body(x_BCSS).flatten(1))
        return raw_BD


def _plain(spec: BackboneSpec, in_channels: int) -> Iterator[nn.Module]:
    for width, depth in zip(spec.widths, spec.depths):
        for _ in range(depth):
            conv = nn.Conv2d(in_channels, width, 3, 1, 1, bias=False)
            yield from (conv, _norm(spec, width), _activation(spec, width))
            in_channels = width
        yield nn.MaxPool2d(2, ceil_mode=True)


def _iresnet(spec: BackboneSpec, in_channels: int) -> Iterator[nn.Module]:
    first = spec.widths[0]
    yield from (nn.Conv2d(in_channels, first, 3, 1, 1, bias=False), _norm(spec, first), _activation(spec, first))
    in_channels = first
    for width, depth in zip(spec.widths, spec.depths):
        for block in range(depth):
            yield _Block(spec, in_channels, width, stride=2 if block == 0 else 1)
            in_channels = width
    yield _norm(spec, in_channels)


class _Block(nn.Module):
    """norm, conv, norm, activation, conv (strided), norm; added to the input, projected where the shape changes."""

    def __init__(self, spec: BackboneSpec, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _norm(spec, in_channels),
            nn.Conv2d(in_channels, width, 3, 1, 1, bias=False),
            _norm(spec, width),
            _activation(spec, width),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            _norm(spec, width),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != width:
            self.shortcut = nn.Sequential(nn.Conv2d(in_channels, width, 1, stride, bias=False), _norm(spec, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sum_BCSS: torch.Tensor = self.residual(x) + self.shortcut(x)
        return sum_BCSS


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
