"""COCO scoring, tables and costs."""
