"""A part of a detector as torch.compile makes it: one program per shape of a batch, never one without asking."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Concatenate, Generic, Literal, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch._dynamo import config as dynamo
from torch._dynamo.exc import TorchDynamoException

from sdetr.errors import UserError

Mode = Literal["default", "reduce-overhead"]
# torch goes on without compiling, in silence, once a function has been compiled this often; its own limit is 8.
_PROGRAMS = 4096
_log = logging.getLogger(__name__)
Module = TypeVar("Module", bound=nn.Module)
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Compiled(Generic[Module, Arguments, Result]):
    """A method that takes batches of images, compiled whole; ``reduce-overhead`` replays it on a GPU as a CUDA graph.

    The modes are torch.compile's. Weights and gradients stay those of the module.
    """

    def __init__(self, method: Callable[Concatenate[Module, list[Tensor], Arguments], Result], mode: Mode) -> None:
        self._method = torch.compile(method, mode=mode, dynamic=False, fullgraph=True)
        self._mode = mode
        self._shapes: set[tuple[int, ...]] = set()

    def __call__(
        self, module: Module, batches: list[Tensor], *arguments: Arguments.args, **keywords: Arguments.kwargs
    ) -> Result:
        """What the method gives for one batch, (B, 3, H, W).

        Raises:
            UserError: the machine cannot compile it, or makes no CUDA graphs.
        """
        (images,) = batches  # it excludes `padding: image`, the only one that makes several
        if self._mode == "reduce-overhead" and images.device.type != "cuda":
            raise UserError("detector.compile: reduce-overhead makes CUDA graphs, which need a GPU; set it to default")
        self._announce(tuple(images.shape))
        try:
            with dynamo.patch(recompile_limit=_PROGRAMS, accumulated_recompile_limit=_PROGRAMS):
                torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
                return self._method(module, batches, *arguments, **keywords)
        except TorchDynamoException as error:
            raise UserError(
                f"detector.compile: torch.compile failed ({_reason(error)}); it needs a C++ compiler on the CPU and "
                "Triton on a GPU, and torch below a path without a space; install them, or set it to none"
            ) from error

    def _announce(self, shape: tuple[int, ...]) -> None:
        if shape in self._shapes:
            return
        self._shapes.add(shape)
        size = " x ".join(str(side) for side in (shape[0], *shape[2:]))
        _log.info("compiling for batches of %s, program %d: some minutes for a large model", size, len(self._shapes))


def _reason(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].strip()[:200]}" if lines else type(error).__name__
