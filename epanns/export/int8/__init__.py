"""Quantisation to int8."""
