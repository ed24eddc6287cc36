"""A training run: loop, validation, run folder, resuming."""
