"""Structured pruning of channels."""
