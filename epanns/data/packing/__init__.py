"""Decoding a manifest into a pack."""
