"""Optical flow: TV-L1 between consecutive frames, and its storage in 8 bits."""

from reaction.flow.front import BACKENDS, SEMANTICS, TVL1, choose, defaults, tvl1
from reaction.flow.quantise import dequantise, quantise

__all__ = ["BACKENDS", "SEMANTICS", "TVL1", "choose", "defaults", "dequantise", "quantise", "tvl1"]
