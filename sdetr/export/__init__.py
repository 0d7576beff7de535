"""Trained detectors for other programs: as ONNX, or as a program of torch.export."""
