"""What an ImageNet backbone expects of its input."""

from __future__ import annotations

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normalize(nn.Module):
    """Takes ImageNet's mean and deviation out of images.

    torchvision's function brings both to a GPU for each image, and waits for an answer whether a deviation is 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def forward(self, images: list[Tensor]) -> list[Tensor]:
        """Images (3, H_i, W_i) in 0..1."""
        return [(image - self.mean).div_(self.std) for image in images]
