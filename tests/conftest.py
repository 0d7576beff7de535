"""Settings and data that every test shares."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch

from sdetr.config import ShapesDataset
from tests import small

# One thread: the order of sums, and with it the last bits of every result, is then the same on every machine.
torch.set_num_threads(1)
# A shell lets what it starts in the background ignore Ctrl-C, and then the tests of Ctrl-C would wait for ever.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# And nohup lets what it starts ignore a closed terminal.
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def small_shapes(tmp_path_factory: pytest.TempPathFactory) -> ShapesDataset:
    root: Path = tmp_path_factory.mktemp("small_shapes")
    return small.shapes(root)
