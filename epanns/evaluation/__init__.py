"""Evaluation of taggers: scores of clips, metrics and intervals."""
