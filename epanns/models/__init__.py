"""What a network is: specifications, layers, the zoo, checkpoints."""
