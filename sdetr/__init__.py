"""SDETR, DETR and Faster R-CNN behind one contract, scored one way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdetr.detector import build_detector

__version__ = "0.1.0"
__all__ = ["build_detector"]


def __getattr__(name: str) -> Any:
    # Lazy, so that the workflow can import sdetr.config without paying for torch.
    if name == "build_detector":
        from sdetr.detector import build_detector

        return build_detector
    raise AttributeError(f"module 'sdetr' has no attribute {name!r}")
