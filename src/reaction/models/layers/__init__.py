"""Layers of detectors in plain torch, one file each. Boxes are x1, y1, x2, y2 in pixels, half-open."""
