"""Training and prediction of anything that is a `Detector`."""
