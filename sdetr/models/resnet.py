"""ResNets in which a frozen batch norm is part of the convolution before it in mixed precision.

y = (conv(x) - mean) * scale + shift is one convolution with weights scaled per output channel, in which weights and
gradients keep their meaning. In float32 the norm is computed as the papers' code does, to the last bit. In mixed
precision that form would turn every feature map into float32, because the norm's buffers are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck
from torchvision.ops import FrozenBatchNorm2d

_BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}


def conv_norm(conv: nn.Conv2d, norm: nn.Module, x: Tensor) -> Tensor:
    """``norm(conv(x))``; in mixed precision a frozen norm is folded into the convolution's weights."""
    if not isinstance(norm, FrozenBatchNorm2d) or not torch.is_autocast_enabled(x.device.type):
        normed: Tensor = norm(conv(x))
        return normed
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    weight = conv.weight * scale[:, None, None, None]
    return F.conv2d(x, weight, shift, conv.stride, conv.padding, conv.dilation, conv.groups)


class FoldedBottleneck(Bottleneck):  # type: ignore[misc]  # torchvision has no types
    """torchvision's bottleneck block (1 x 1, 3 x 3, 1 x 1 and a shortcut) with `conv_norm`."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) to (B, 4 * planes, h / stride, w / stride)."""
        shortcut = x if self.downsample is None else conv_norm(self.downsample[0], self.downsample[1], x)
        x = F.relu(conv_norm(self.conv1, self.bn1, x), inplace=True)
        x = F.relu(conv_norm(self.conv2, self.bn2, x), inplace=True)
        return F.relu(conv_norm(self.conv3, self.bn3, x).add_(shortcut), inplace=True)


class Stem(nn.Module):
    """A ResNet's first convolution and pooling, under torchvision's names."""

    def __init__(self, resnet: torchvision.models.ResNet) -> None:
        super().__init__()
        self.conv1, self.bn1, self.maxpool = resnet.conv1, resnet.bn1, resnet.maxpool

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 64, H / 4, W / 4)."""
        pooled: Tensor = self.maxpool(F.relu(conv_norm(self.conv1, self.bn1, x), inplace=True))
        return pooled


def new_resnet(name: str, norm: type[nn.Module], dilation: bool) -> torchvision.models.ResNet:
    """``resnet50`` or ``resnet101`` with random weights; ``dilation`` keeps layer4 at layer3's size (DC5)."""
    return torchvision.models.ResNet(
        FoldedBottleneck,
        list(_BLOCKS[name]),
        norm_layer=norm,
        replace_stride_with_dilation=[False, False, dilation],
    )
