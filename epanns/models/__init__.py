"""Networks: specifications, layers, the zoo, checkpoints."""
