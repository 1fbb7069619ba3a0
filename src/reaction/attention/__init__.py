"""Attention maps: where a trained network looks, and a small network that learns to tell without the label."""
