"""Optical flow: TV-L1 between consecutive frames, and its storage in 8 bits."""

from reaction.flow.quantise import dequantise, quantise
from reaction.flow.tvl1 import TVL1, tvl1

__all__ = ["TVL1", "dequantise", "quantise", "tvl1"]
