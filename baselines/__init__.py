"""Detectors that SDETR is compared with. A recipe names them; sdetr never imports them."""
