"""Everything about a model except its weights, and the networks to choose from; imports nothing heavy.

The networks themselves are in ``backbones``; what a model does with pixels is in ``embedder``.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from metric_core.errors import ConfigError
from metric_core.image.spec import DECODER_RULE, Preprocessing
from metric_core.options import Options, out_of_range

DIMS = "[8, 4096]"
"""Allowed numbers of components per embedding."""
STAGES, WIDEST, DEEPEST = 10, 8192, 256
"""Most stages of a network, channels of a stage, and layers or blocks of a stage."""


@dataclass(frozen=True)
class BackboneSpec(Options):
    """The shape of a network."""

    family: Literal["plain", "iresnet"]
    """plain: convolutions and max pooling (Simonyan and Zisserman 2015, "VGG"); iresnet: the improved residual network
    of ArcFace's reference code (Deng et al. 2019, sec. 3.1; Duta et al. 2020, arXiv:2004.04989)."""
    widths: tuple[int, ...]
    """Channels per stage; each stage halves the side."""
    depths: tuple[int, ...]
    """Convolutions (plain) or residual blocks (iresnet) per stage."""
    activation: Literal["prelu", "relu"]
    """prelu has a learnt slope per channel; relu trains a third faster on CPUs."""
    norm: Literal["group", "batch"]
    """group: a face's vector does not depend on its batch, so that training is the same at every world size; batch:
    batch normalisation."""
    dim: int
    """Components per embedding, 8 to 4096."""

    def problems(self) -> list[str]:
        problems = out_of_range(self, dim=DIMS)
        if not 1 <= len(self.widths) == len(self.depths) <= STAGES:
            problems.append(f"widths {self.widths} and depths {self.depths} must be of equal length, 1 to {STAGES}")
        if not all(1 <= width <= WIDEST for width in self.widths):
            problems.append(f"widths is {self.widths}; each must be from 1 to {WIDEST}")
        if not all(1 <= depth <= DEEPEST for depth in self.depths):
            problems.append(f"depths is {self.depths}; each must be from 1 to {DEEPEST}")
        return problems


_Shape = tuple[Literal["plain", "iresnet"], tuple[int, ...], tuple[int, ...], Literal["prelu", "relu"]]

# One entry per size that the command offers. The first is this project's own: on a few thousand pictures it learns more
# than a residual network of the same cost. The others have the published shapes; published weights fit them once their
# names are mapped.
BACKBONES: dict[str, _Shape] = {
    "plain": ("plain", (32, 64, 128, 192), (1, 1, 1, 1), "relu"),
    "iresnet18": ("iresnet", (64, 128, 256, 512), (2, 2, 2, 2), "prelu"),
    "iresnet50": ("iresnet", (64, 128, 256, 512), (3, 4, 14, 3), "prelu"),
    "iresnet100": ("iresnet", (64, 128, 256, 512), (3, 13, 30, 3), "prelu"),
}


def backbone_spec(size: str, *, norm: Literal["group", "batch"], dim: int) -> BackboneSpec:
    """The spec of a named size. Raises ConfigError when there is no such size or ``dim`` is out of range."""
    if size not in BACKBONES:
        raise ConfigError(f"backbone is {size!r}; expected one of {', '.join(BACKBONES)}")
    family, widths, depths, activation = BACKBONES[size]
    return BackboneSpec(family, widths, depths, activation, norm, dim)


@dataclass(frozen=True)
class ModelSpec:
    """Everything except the weights that changes an embedding. Written as ``model.json``."""

    backbone: BackboneSpec
    preprocessing: Preprocessing
    standardise: bool
    """Whether every picture is scaled to mean 0 and standard deviation 1, so that brightness and contrast do not
    matter; otherwise pixels are scaled from 0 … 255 to -1 … 1."""
    flip_average: bool
    """Whether a face's vector is the normalised sum of its own and its mirror image's."""
    distance: Literal["euclidean", "squared-euclidean", "cosine"]
    """The distance it was trained for; on unit vectors all three give the same ranking."""

    def to_json(self) -> dict[str, Any]:
        """A JSON object from which ``from_json`` makes an equal spec."""
        return asdict(self) | {"decoder": DECODER_RULE}

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> "ModelSpec":
        """The spec behind ``to_json``. Raises ValueError for a different decoder rule, KeyError for a missing field."""
        if body["decoder"] != DECODER_RULE:
            raise ValueError(f"its decoder rule is {body['decoder']!r}; {DECODER_RULE!r} was expected")
        backbone = dict(body["backbone"])
        backbone["widths"], backbone["depths"] = tuple(backbone["widths"]), tuple(backbone["depths"])
        return cls(
            backbone=BackboneSpec(**backbone),
            preprocessing=Preprocessing(**body["preprocessing"]),
            standardise=body["standardise"],
            flip_average=body["flip_average"],
            distance=body["distance"],
        )
