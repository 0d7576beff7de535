"""Convolutional backbones that give one feature map per level."""

from __future__ import annotations

from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import WeightsEnum
from torchvision.ops import FrozenBatchNorm2d

from sdetr.config import BackboneConfig
from sdetr.errors import UserError
from sdetr.models.resnet import Batches, Stem, add, conv_norm, new_resnet, relu
from sdetr.strict_json import shown
from sdetr.tensor_files import check_tensors, load_plain, reason

SMALL_CHANNELS = (16, 32, 64, 128)
_RESNET_STEM = ("conv1", "bn1")


class Backbone(nn.Module):
    """A stem and levels ``layer1``, ``layer2``, ...; frozen statistics, so no result depends on the rest of a batch.

    Attributes:
        channels: of each level.
        strides: pixels from one place of a level to the next.
    """

    def __init__(
        self, stem: nn.Module, levels: dict[str, nn.Module], channels: dict[str, int], strides: dict[str, int]
    ) -> None:
        super().__init__()
        self.stem = stem
        for name, module in levels.items():
            self.add_module(name, module)
        self.channels = channels
        self.strides = strides

    def drop_beyond(self, wanted: frozenset[str]) -> None:
        """Remove the levels beyond the last of ``wanted``, so that no parameter is trained or counted in vain."""
        names = list(self.channels)
        for name in names[max(names.index(level) for level in wanted) + 1 :]:
            delattr(self, name)
            del self.channels[name]

    def forward(self, batches: Batches, wanted: frozenset[str]) -> list[dict[str, Tensor]]:
        """Feature maps.

        Args:
            batches: images, (B_i, 3, H_i, W_i) each, normalised.
            wanted: levels to return; levels beyond the last of them are not computed.

        Returns:
            For each batch, (B_i, channels, h_i, w_i) by level.
        """
        batches = self.stem(batches)
        features: list[dict[str, Tensor]] = [{} for _ in batches]
        for name in self.channels:
            batches = getattr(self, name)(batches)
            if name in wanted:
                for own, x in zip(features, batches, strict=True):
                    own[name] = x
                if len(features[0]) == len(wanted):
                    break
        return features


class SmallStem(nn.Sequential):
    """A strided convolution and its norm."""

    def forward(self, batches: Batches) -> Batches:
        """(B, 3, H, W) each to (B, channels, H / 2, W / 2)."""
        conv, norm = self
        assert isinstance(conv, nn.Conv2d)
        return relu(conv_norm(conv, norm, batches))


class SmallBlock(nn.Module):
    """A strided convolution and a residual pair: one level of the small backbone."""

    def __init__(self, inputs: int, outputs: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        self.bn1 = norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = norm(outputs)
        self.conv3 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn3 = norm(outputs)

    def forward(self, batches: Batches) -> Batches:
        """(B, inputs, h, w) each to (B, outputs, h / 2, w / 2)."""
        batches = relu(conv_norm(self.conv1, self.bn1, batches))
        changes = relu(conv_norm(self.conv2, self.bn2, batches))
        return relu(add(conv_norm(self.conv3, self.bn3, changes), batches))


def small_backbone(norm: type[nn.Module]) -> Backbone:
    """16-32-64-128 channels, levels at strides 4, 8 and 16; ``norm`` is trainable batch norm only while pretraining."""
    stem, *widths = SMALL_CHANNELS
    first = SmallStem(nn.Conv2d(3, stem, 3, stride=2, padding=1, bias=False), norm(stem))
    levels: dict[str, nn.Module] = {}
    inputs = stem
    for number, outputs in enumerate(widths, start=1):
        levels[f"layer{number}"] = SmallBlock(inputs, outputs, norm)
        inputs = outputs
    strides = {f"layer{number}": 2 ** (number + 1) for number in range(1, 4)}
    return Backbone(first, levels, dict(zip(levels, widths, strict=True)), strides)


def _resnet(name: str, norm: type[nn.Module], dilation: bool) -> Backbone:
    resnet = new_resnet(name, norm, dilation)
    expansion = resnet.fc.in_features // 512
    channels = {f"layer{i}": 64 * expansion * 2 ** (i - 1) for i in range(1, 5)}
    strides = {f"layer{i}": 2 ** (i + 1) for i in range(1, 5)}
    if dilation:
        strides["layer4"] = strides["layer3"]
    return Backbone(Stem(resnet), {level: getattr(resnet, level) for level in channels}, channels, strides)


def new_backbone(name: str, norm: type[nn.Module], dilation: bool = False) -> Backbone:
    """A backbone with random weights; ``norm`` is batch norm that learns only while a backbone is pretrained."""
    return small_backbone(norm) if name == "small" else _resnet(name, norm, dilation)


def build_backbone(config: BackboneConfig) -> Backbone:
    """The backbone of a recipe, with its weights loaded and its frozen parts frozen.

    Raises:
        UserError: the weights cannot be found or do not fit.
    """
    pretrained = _pretrained(config)
    backbone = new_backbone(config.name, FrozenBatchNorm2d, config.dilation)
    if pretrained is not None:
        load_exactly(backbone, _own_names(pretrained), config.weights)
    for part in config.frozen:
        getattr(backbone, part).requires_grad_(False)
    return backbone


def _own_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A backbone's state, which may be a classifier's of torchvision, in the names of `Backbone`."""
    # FrozenBatchNorm2d has no step counter; the classifier is not used.
    kept = {k: v for k, v in state.items() if not k.startswith("fc.") and "num_batches_tracked" not in k}
    return {f"stem.{k}" if k.partition(".")[0] in _RESNET_STEM else k: v for k, v in kept.items()}


def _pretrained(config: BackboneConfig) -> dict[str, Tensor] | None:
    if config.weights == "none":
        return None
    if config.weights == "suite":
        raise UserError(
            "detector.backbone.weights: 'suite' needs the file that the suite's pretraining made (backbone.pt); name "
            "it with `--backbone-weights FILE`"
        )
    if config.weights != "imagenet":
        return read_state_dict(Path(config.weights))
    if config.name == "small":
        raise UserError(
            "detector.backbone.weights: there are no ImageNet weights of the small backbone; use 'suite' or 'none'"
        )
    try:
        state: dict[str, Tensor] = imagenet_weights(config.name).get_state_dict(progress=False, check_hash=True)
    except OSError as error:
        raise UserError(
            f"detector.backbone.weights: ImageNet weights of {config.name} could not be downloaded ({error}); "
            "check the network, or download them elsewhere and give the file's path"
        ) from error
    return state


def imagenet_weights(name: str) -> WeightsEnum:
    """The first ImageNet weights of a ResNet in torchvision, which the papers start from."""
    return torchvision.models.get_weight(f"{name.replace('resnet', 'ResNet')}_Weights.IMAGENET1K_V1")


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """A file of plain tensors by name; nothing in it is executed.

    Raises:
        UserError: missing, broken, or something else than tensors by name.
    """
    try:
        content = load_plain(path)
    except Exception as error:  # torch raises many kinds for a file that is no checkpoint
        raise UserError(
            f"{path}: is not a readable weights file ({reason(error)}); nothing in it was executed: make it again, or "
            "get it again from its source"
        ) from error
    return check_tensors(content, path)


def load_exactly(module: nn.Module, state: dict[str, Tensor], where: str | Path) -> None:
    """Load a state dict, every name and shape of it.

    Raises:
        UserError: names missing, unknown, of another shape, or with numbers that are none, each listed.
    """
    own = module.state_dict()
    wrong = [f"{shown(name)} is missing" for name in own if name not in state]
    wrong += [f"{shown(name)} is unknown" for name in state if name not in own]
    wrong += [
        f"{name} has shape {tuple(value.shape)}, not {tuple(own[name].shape)}"
        for name, value in state.items()
        if name in own and value.shape != own[name].shape
    ]
    wrong += (
        [] if wrong else [f"{name} {what}" for name in state if (what := _unusable(name, state[name], own[name].dtype))]
    )
    if wrong:
        more = f" and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise UserError(
            f"{where}: does not fit: {'; '.join(line[:200] for line in wrong[:10])}{more}; give weights of this very "
            "detector, or correct the recipe"
        )
    with torch.no_grad():
        module.load_state_dict(state)


def _unusable(name: str, value: Tensor, dtype: torch.dtype) -> str | None:
    """Why numbers of the right shape are no weights, if they are none."""
    if dtype.is_floating_point and not value.is_floating_point():
        return f"has numbers of type {value.dtype}, not {dtype}"
    if name.endswith("running_var") and bool((value < 0).any()):
        return "has negative variances"
    return None if bool(torch.isfinite(value.to(dtype)).all()) else "has numbers that are infinite or NaN"
