"""Clips on disk to batches."""
