"""Category ids of a data set and labels of a detector: the only place that knows both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Numbering = Literal["contiguous", "category_id"]


class LabelMap:
    """Which label a detector gives to which category.

    ``contiguous`` numbers the categories 0 .. C - 1 in the order of their ids. ``category_id`` takes the ids as they
    are, so labels that no category has lie between them (COCO: 91 labels, 80 categories); DETR's released weights
    are numbered so.
    """

    def __init__(self, categories: Mapping[int, str], numbering: Numbering) -> None:
        ids = sorted(categories)
        labels = range(len(ids)) if numbering == "contiguous" else ids
        self._label = dict(zip(ids, labels, strict=True))
        self._category_id = {label: category_id for category_id, label in self._label.items()}
        self.names = {label: categories[category_id] for category_id, label in self._label.items()}
        self.num_classes = max(self._category_id, default=-1) + 1

    def label(self, category_id: int) -> int:
        """Label of a category.

        Raises:
            KeyError: no such category.
        """
        return self._label[category_id]

    def category_id(self, label: int) -> int | None:
        """Category of a label; None for a label that no category has."""
        return self._category_id.get(label)
