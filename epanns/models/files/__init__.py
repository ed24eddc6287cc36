"""Files of weights: checkpoints, released files, downloads."""
