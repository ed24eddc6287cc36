"""The stages of a run, each one function that commands and sweeps call: prune, fine-tune, score, sensitivity."""
