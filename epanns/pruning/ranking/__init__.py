"""Ranking of channels: the criteria and their measurements."""
