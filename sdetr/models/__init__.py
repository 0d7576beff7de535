"""The stacked DETR family and its parts."""
