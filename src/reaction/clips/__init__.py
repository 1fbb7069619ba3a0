"""From stored frames, flow fields and attention maps to the clips a network reads."""
