"""The embedder: pixels of cropped faces to unit vectors, whose cosine is the similarity of two faces."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from metric_core.model.backbones import Backbone
from metric_core.model.spec import ModelSpec

NOISE = 8.0
"""Added to a picture's standard deviation (pixels are 0 to 255), so that noise in a flat picture is not amplified."""


class Embedder(nn.Module):
    """A backbone with pixel scaling before it and normalisation after it."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.net = Backbone(spec.backbone, channels=spec.preprocessing.channels, size=spec.preprocessing.size)
        # Convolutions are fastest when the channels of a pixel are adjacent, on CPUs as well as on tensor cores.
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this form

    def raw(self, pixels_BCSS: torch.Tensor) -> torch.Tensor:
        """Pixels (B, C, S, S), 0 to 255, uint8 or float, to vectors (B, D) in the network's dtype, not normalised."""
        x_BCSS = pixels_BCSS.to(self.net.head.weight.dtype)
        if self.spec.standardise:
            deviation_B, mean_B = torch.std_mean(x_BCSS, dim=(1, 2, 3), keepdim=True)
            x_BCSS = (x_BCSS - mean_B) / (deviation_B + NOISE)
        else:
            x_BCSS = (x_BCSS - 127.5) / 127.5
        raw_BD: torch.Tensor = self.net(x_BCSS.contiguous(memory_format=torch.channels_last))
        return raw_BD

    def forward(self, pixels_BCSS: torch.Tensor) -> torch.Tensor:
        """Pixels, as for ``raw``, to unit vectors (B, D); at least float32, because distances are computed on them."""
        raw_BD = self.raw(pixels_BCSS)
        return F.normalize(raw_BD.to(torch.promote_types(raw_BD.dtype, torch.float32)), dim=1)

    @torch.no_grad()
    def embed(self, pixels_BCSS: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Inference: unit vectors, float32 (B, D), and the lengths of the raw vectors, float32 (B,).

        With ``flip_average``, the vector is the normalised sum of the face's and its mirror image's, and the length is
        the mean of the two. The caller calls ``eval()`` and puts the pixels on the module's device.
        """
        views = [pixels_BCSS, pixels_BCSS.flip(-1)] if self.spec.flip_average else [pixels_BCSS]
        raw_VBD = torch.stack([self.raw(view).float() for view in views])
        vector_BD = F.normalize(F.normalize(raw_VBD, dim=2).sum(0), dim=1)
        return vector_BD.cpu().numpy(), raw_VBD.norm(dim=2).mean(0).cpu().numpy()
