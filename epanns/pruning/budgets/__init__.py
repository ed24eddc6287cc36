"""Budgets and their distribution over the layers."""
