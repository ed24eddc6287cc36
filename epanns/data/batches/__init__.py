"""Batches of clips from packs."""
