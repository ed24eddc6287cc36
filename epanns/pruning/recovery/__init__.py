"""What can be done for a pruned network without labels."""
