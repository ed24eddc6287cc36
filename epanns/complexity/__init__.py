"""Costs of networks: parameters, multiply-adds, latency and memory."""
