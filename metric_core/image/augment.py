"""Random changes to whole batches of pictures. Every draw depends on (seed, step, face_id) only, so a face is changed
in the same way on every rank. Pixels stay in the range 0 to 255.
"""

import math

import numpy as np
import torch
from torch.nn import functional as F

from metric_core import counter
from metric_core.image.spec import Augmentation


def augment(
    pixels_BCSS: torch.Tensor, face_id_B: np.ndarray, how: Augmentation, *, seed: int, step: int
) -> torch.Tensor:
    """Changed pictures (B, C, S, S): float64 if the input is float64, otherwise float32; on the input's device."""
    x_BCSS = pixels_BCSS if pixels_BCSS.dtype == torch.float64 else pixels_BCSS.float()
    if not len(x_BCSS):  # a worker's whole share can be unreadable, and grid_sample refuses an empty batch
        return x_BCSS
    draw_nB = torch.from_numpy(counter.uniform(seed, step, face_id_B, "augment", 12).T).to(x_BCSS)
    signed_nB = 2 * draw_nB - 1
    x_BCSS = _warp(x_BCSS, draw_nB[0] < how.flip, signed_nB[1:5], how)
    gain_B = (1 + how.light * signed_nB[5])[:, None, None, None]
    contrast_B = (1 + how.light * signed_nB[6])[:, None, None, None]
    mean_B = x_BCSS.mean(dim=(1, 2, 3), keepdim=True)
    x_BCSS = ((x_BCSS - mean_B) * contrast_B + mean_B * gain_B).clamp(0, 255)
    return torch.where(_holes(draw_nB[7:12], x_BCSS.shape[-1], how.erase), mean_B, x_BCSS)


def _warp(x_BCSS: torch.Tensor, flip_B: torch.Tensor, signed_4B: torch.Tensor, how: Augmentation) -> torch.Tensor:
    angle_B = signed_4B[0] * math.radians(how.rotate)
    zoom_B = 1 + how.scale * signed_4B[1]
    cos_B, sin_B = torch.cos(angle_B) * zoom_B, torch.sin(angle_B) * zoom_B
    mirror_B = torch.where(flip_B, -1.0, 1.0).to(x_BCSS.dtype)
    # affine_grid's coordinates run from -1 to 1, so the side has length 2.
    dx_B, dy_B = 2 * how.shift * signed_4B[2], 2 * how.shift * signed_4B[3]
    top_B3 = torch.stack([cos_B * mirror_B, -sin_B, dx_B], dim=1)
    bottom_B3 = torch.stack([sin_B * mirror_B, cos_B, dy_B], dim=1)
    theta_B23 = torch.stack([top_B3, bottom_B3], dim=1)
    grid = F.affine_grid(theta_B23, list(x_BCSS.shape), align_corners=False)
    return F.grid_sample(x_BCSS, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _holes(draw_5B: torch.Tensor, side: int, chance: float) -> torch.Tensor:
    """bool (B, 1, S, S): where a picture is blanked."""
    erased_B = draw_5B[0] < chance
    half_h_B, half_w_B = 0.05 + 0.15 * draw_5B[1], 0.05 + 0.15 * draw_5B[2]
    position_S = (torch.arange(side, device=draw_5B.device) + 0.5) / side
    in_y_BS = (position_S[None] - draw_5B[3][:, None]).abs() < half_h_B[:, None]
    in_x_BS = (position_S[None] - draw_5B[4][:, None]).abs() < half_w_B[:, None]
    return (in_y_BS[:, :, None] & in_x_BS[:, None, :] & erased_B[:, None, None])[:, None]
