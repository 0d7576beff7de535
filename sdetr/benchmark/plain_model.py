"""A stacked detector in the form of the reference code: the same weights, without what makes this project's fast."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from sdetr.models.attention import Attention
from sdetr.models.dropout import Dropout
from sdetr.models.padding import Packing
from sdetr.models.resnet import Batches, FoldedBottleneck, Stem
from sdetr.models.stacked import StackedDETR
from sdetr.models.stage import Stage
from sdetr.models.tokens import Tokens


def plain_twin(detector: StackedDETR) -> StackedDETR:
    """A copy in the reference's form."""
    twin = copy.deepcopy(detector)
    make_plain(twin)
    return twin


def make_plain(detector: StackedDETR) -> None:
    """Bring a detector into the reference's form; it keeps its weights.

    Attention builds its matrix over all tokens of a padded batch and masks padding; dropout is torch's, and blocks of
    the ResNet are torchvision's, whose norms are not folded.
    """
    for module in detector.modules():
        module.__class__ = _PLAIN.get(type(module), type(module))
        for name, child in module.named_children():
            if isinstance(child, Dropout):
                setattr(module, name, nn.Dropout(child.probability))
    detector.train(detector.training)


class _MaskedAttention(Attention):
    """Attention that gives padding a weight of zero, and computes it."""

    padding: Tensor | None = None

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, heads, Q, d)."""
        scores = (q / q.shape[-1] ** 0.5) @ k.transpose(-2, -1)
        if self.padding is not None:
            scores = scores.masked_fill(self.padding[:, None, None, :], -torch.inf)
        return F.dropout(scores.softmax(-1), self.dropout, self.training) @ v


class _MaskedStage(Stage):
    """A stage whose layers compute on padding too."""

    def tokens(self, feature: Tensor, position: Tensor, packing: Packing | None) -> Tokens:
        """All tokens of the padded feature map."""
        padding = None
        if packing is not None:
            padding = torch.ones(feature[:, 0].numel(), dtype=torch.bool, device=feature.device)
            padding = padding.index_fill(0, packing.index, 0).view(len(feature), -1)
        for layers, name in ((self.encoder, "self_attention"), (self.decoder, "cross_attention")):
            for layer in layers:
                attention = layer.get_submodule(name)
                assert isinstance(attention, _MaskedAttention)
                attention.padding = padding
        return super().tokens(feature, position, None)


class _PlainStem(Stem):
    """A ResNet's first layers as torchvision computes them."""

    def forward(self, batches: Batches) -> Batches:
        """(B, 3, H, W) each to (B, 64, H / 4, W / 4)."""
        return [self.maxpool(F.relu(self.bn1(self.conv1(x)), inplace=True)) for x in batches]


class _PlainBottleneck(Bottleneck):  # type: ignore[misc]  # torchvision has no types
    """torchvision's block."""

    def forward(self, batches: Batches) -> Batches:
        """(B, channels, h, w) each to (B, 4 * planes, h / stride, w / stride)."""
        return [super(_PlainBottleneck, self).forward(x) for x in batches]


_PLAIN: dict[type[nn.Module], type[nn.Module]] = {
    Attention: _MaskedAttention,
    Stage: _MaskedStage,
    Stem: _PlainStem,
    FoldedBottleneck: _PlainBottleneck,
}
