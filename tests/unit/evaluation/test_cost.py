from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from sdetr.detector import create_detector
from sdetr.evaluation.cost import device_name, gflops, peak_memory_gb, trainable_parameters
from tests import small

CPU = torch.device("cpu")


def operations(call: Callable[[], object]) -> int:
    return round(gflops(call) * 1e9)


def test_trainable_parameters_leave_out_frozen_and_count_shared_ones_once() -> None:
    first, second, frozen = nn.Linear(3, 4), nn.Linear(3, 4, bias=False), nn.Linear(5, 5)
    second.weight = first.weight
    frozen.requires_grad_(False)
    assert trainable_parameters(nn.ModuleList([first, second, frozen, nn.BatchNorm2d(7)])) == 3 * 4 + 4 + 2 * 7


def test_operations_of_a_convolution() -> None:
    layer, image = nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2), torch.zeros(2, 6, 21, 30)
    assert operations(lambda: layer(image)) == 2 * 8 * 11 * 15 * (6 // 2) * 3 * 3


def test_operations_of_a_linear_layer() -> None:
    layer, tokens = nn.Linear(5, 7), torch.zeros(2, 3, 5)
    assert operations(lambda: layer(tokens)) == 2 * 3 * 5 * 7


@pytest.mark.parametrize("masked", [False, True])
def test_operations_of_attention_on_the_cpu(masked: bool) -> None:
    batch, heads, queries, keys, width = 2, 4, 10, 30, 8
    query = torch.zeros(batch, heads, queries, width)
    key = torch.zeros(batch, heads, keys, width)
    mask = torch.ones(batch, 1, 1, keys, dtype=torch.bool) if masked else None
    expected = 2 * batch * heads * queries * keys * width
    assert operations(lambda: F.scaled_dot_product_attention(query, key, key, mask)) == expected


@pytest.mark.parametrize("padded", [False, True])
def test_operations_do_not_depend_on_whether_attention_is_fused(padded: bool) -> None:
    def cost(attention: str) -> int:
        detector = create_detector(small.recipe("demo_sdetr", detector__attention=attention).detector, 3).eval()
        images = [torch.zeros(3, 64, 96), torch.zeros(3, 64, 64 if padded else 96)]
        with torch.no_grad():
            return operations(lambda: detector(images))

    assert cost("plain") == cost("fused") > 0


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_operations_of_torch_attention_layers_do_not_depend_on_autograd(
    mode: Callable[[], AbstractContextManager[None]],
) -> None:
    batch, tokens, width = 2, 10, 32
    layer, x = nn.MultiheadAttention(width, 4, batch_first=True).eval(), torch.zeros(batch, tokens, width)
    expected = batch * (4 * tokens * width * width + 2 * tokens * tokens * width)
    before = torch.backends.mha.get_fastpath_enabled()
    with mode():
        assert operations(lambda: layer(x, x, x, need_weights=False)) == expected
    assert torch.backends.mha.get_fastpath_enabled() == before


def test_operations_of_resnet18_are_the_published_ones() -> None:
    with torch.device("meta"):
        model, image = torchvision.models.resnet18().eval(), torch.zeros(1, 3, 224, 224)
    published = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.meta["_ops"]
    assert gflops(lambda: model(image)) == pytest.approx(published, abs=5e-4)


PEAK = """
import torch
from sdetr.detector import create_detector
from sdetr.evaluation.cost import peak_memory_gb
cpu = torch.device("cpu")
before = peak_memory_gb(cpu)
block = bytearray(200_000_000)
block[::4096] = b"x" * len(block[::4096])
during = peak_memory_gb(cpu)
del block
print(before, during, peak_memory_gb(cpu))
"""


def test_peak_memory_of_the_cpu_is_a_peak() -> None:
    # In a process of its own: this one may have had its peak in an earlier test.
    result = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    before, during, after = (float(number) for number in result.stdout.split())
    assert before > 0.01
    assert during - before == pytest.approx(0.2, rel=0.2)
    assert after == pytest.approx(during, rel=0.05)


def test_device_name_of_the_cpu_tells_the_cores() -> None:
    name = device_name(CPU)
    assert "core" in name
    assert not name.startswith(" (")
    assert "\n" not in name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_device() -> None:
    device = torch.device("cuda", 0)
    torch.zeros(1, device=device)  # before the first tensor there are no statistics to reset
    torch.cuda.reset_peak_memory_stats(device)
    block = torch.zeros(250_000_000, device=device)
    del block
    assert peak_memory_gb(device) >= 1.0
    assert device_name(device) == torch.cuda.get_device_name(device)
    query = torch.zeros(1, 2, 64, 16, device=device)
    assert operations(lambda: F.scaled_dot_product_attention(query, query, query)) == 2 * 2 * 64 * 64 * 16
