"""ResNets in which a frozen batch norm is part of the convolution before it in mixed precision.

y = (conv(x) - mean) * scale + shift is one convolution with weights scaled per output channel, in which weights and
gradients keep their meaning. In float32 the norm is computed as the papers' code does, to the last bit. In mixed
precision that form would turn every feature map into float32, because the norm's buffers are.

Batches of several sizes go through each layer together, so that weights are scaled and cast once for all of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck
from torchvision.ops import FrozenBatchNorm2d

_BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}


Batches = list[Tensor]


def conv_norm(conv: nn.Conv2d, norm: nn.Module, batches: Batches) -> Batches:
    """``norm(conv(x))`` of each batch; in mixed precision a frozen norm is folded into the convolution's weights."""
    device = batches[0].device.type
    if not isinstance(norm, FrozenBatchNorm2d) or not torch.is_autocast_enabled(device):
        return [norm(conv(x)) for x in batches]
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    weight = conv.weight * scale[:, None, None, None]
    weight, shift = (x.to(torch.get_autocast_dtype(device)) for x in (weight, shift))
    return [F.conv2d(x, weight, shift, conv.stride, conv.padding, conv.dilation, conv.groups) for x in batches]


def relu(batches: Batches) -> Batches:
    """In place."""
    return [F.relu(x, inplace=True) for x in batches]


def add(batches: Batches, others: Batches) -> Batches:
    """Add to each batch, in place."""
    return [x.add_(other) for x, other in zip(batches, others, strict=True)]


class FoldedBottleneck(Bottleneck):  # type: ignore[misc]  # torchvision has no types
    """torchvision's bottleneck block (1 x 1, 3 x 3, 1 x 1 and a shortcut) with `conv_norm`."""

    def forward(self, batches: Batches) -> Batches:
        """(B, channels, h, w) each to (B, 4 * planes, h / stride, w / stride)."""
        shortcuts = batches if self.downsample is None else conv_norm(self.downsample[0], self.downsample[1], batches)
        batches = relu(conv_norm(self.conv1, self.bn1, batches))
        batches = relu(conv_norm(self.conv2, self.bn2, batches))
        return relu(add(conv_norm(self.conv3, self.bn3, batches), shortcuts))


class Stem(nn.Module):
    """A ResNet's first convolution and pooling, under torchvision's names."""

    def __init__(self, resnet: torchvision.models.ResNet) -> None:
        super().__init__()
        self.conv1, self.bn1, self.maxpool = resnet.conv1, resnet.bn1, resnet.maxpool

    def forward(self, batches: Batches) -> Batches:
        """(B, 3, H, W) each to (B, 64, H / 4, W / 4)."""
        return [self.maxpool(x) for x in relu(conv_norm(self.conv1, self.bn1, batches))]


def new_resnet(name: str, norm: type[nn.Module], dilation: bool) -> torchvision.models.ResNet:
    """``resnet50`` or ``resnet101`` with random weights; ``dilation`` keeps layer4 at layer3's size (DC5)."""
    return torchvision.models.ResNet(
        FoldedBottleneck,
        list(_BLOCKS[name]),
        norm_layer=norm,
        replace_stride_with_dilation=[False, False, dilation],
    )
