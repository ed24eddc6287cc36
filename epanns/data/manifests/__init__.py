"""Manifests: one row per clip of a data set."""
