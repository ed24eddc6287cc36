"""Weights get better."""
