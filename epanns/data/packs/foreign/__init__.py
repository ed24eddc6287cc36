"""Packs of PANNs, PaSST and EfficientAT."""
