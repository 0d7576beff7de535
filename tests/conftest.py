"""Settings that every test shares."""

from __future__ import annotations

import torch

# One thread: the order of sums, and with it the last bits of every result, is then the same on every machine.
torch.set_num_threads(1)
