"""Attention within the images of a packed row, on a GPU as one kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

# Of a head: a multiple of it, which torch rounds up to where it is asked for one image.
_CHANNELS = 8


@dataclass(frozen=True, slots=True)
class Lengths:
    """How many tokens each image of a packed row has.

    Attributes:
        counts: of B images.
        starts: (B + 1,) int32, where each image begins, and where the last one ends; on the tokens' device.
    """

    counts: list[int]
    starts: Tensor

    @classmethod
    def of(cls, counts: Sequence[int], device: torch.device) -> Lengths:
        """From the number of tokens of each image; no device is waited for."""
        starts = torch.tensor([0, *accumulate(counts)], dtype=torch.int32)
        return cls(list(counts), starts.to(device, non_blocking=True))


def is_one_kernel(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> bool:
    """Whether torch's flash attention takes such tensors, (B, heads, tokens, d): then it also takes packed ones.

    That is up to the GPU, the precision, d and dropout. Where it is so, torch takes flash attention for an image by
    itself too, since `prepare_device` leaves cuDNN's out.
    """
    if q.device.type != "cuda" or q.dtype not in (torch.bfloat16, torch.float16) or q.shape[-1] % _CHANNELS != 0:
        return False
    image = torch.backends.cuda.SDPAParams(q[:1], k[:1], v[:1], None, dropout, False, False)
    return torch.backends.cuda.can_use_flash_attention(image)


def mix_packed(q: Tensor, k: Tensor, v: Tensor, lengths: Lengths, dropout: float) -> Tensor:
    """What queries take from the values of their own image (arXiv 1706.03762, equation 1), where `is_one_kernel`.

    Args:
        q: (1, heads, T, d), packed as keys are, or (B, heads, Q, d), a row for each image.
        k: (1, heads, T, d).
        v: (1, heads, T, d).
        lengths: of the B images.
        dropout: probability that a weight of the attention matrix is dropped.

    Returns:
        As ``q``.
    """
    starts, longest = lengths.starts, max(lengths.counts)
    own, most = starts, longest
    if len(q) == len(lengths.counts):  # a row for each image
        most = q.shape[2]
        own = torch.arange(0, q.shape[0] * most + 1, most, dtype=torch.int32, device=q.device)
    rows = [x.transpose(1, 2).flatten(0, 1) for x in (q, k, v)]
    # torch's scaled_dot_product_attention ends here for its nested tensors. varlen_attn, the public name of the
    # kernel, has no dropout.
    mixed: Tensor = torch.ops.aten._flash_attention_forward(*rows, own, starts, most, longest, dropout, False, False)[0]
    return mixed.view(len(q), -1, *mixed.shape[1:]).transpose(1, 2)
