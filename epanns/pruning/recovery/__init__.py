"""Recovery of pruned networks without labels."""
