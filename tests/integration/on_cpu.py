"""`sdetr` with processes of the CPU in place of GPUs: ``python -m tests.integration.on_cpu train --gpus 2 ...``."""

from __future__ import annotations

import sys

import torch

from sdetr import jobs
from sdetr.cli import main
from sdetr.engine import distributed, launch

_join = distributed.joined
launch.take_gpus = lambda count: [str(number) for number in range(count)]  # type: ignore[assignment]
jobs.joined = lambda _gpus: _join(0)
jobs.prepare_device = lambda _gpus, _threads: torch.device("cpu")  # type: ignore[assignment]

if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
