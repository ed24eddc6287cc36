"""Waveforms in, log-mel spectrograms out."""
