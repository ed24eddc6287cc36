"""Networks: one module per family of architectures."""
