"""Packs: HDF5 files of decoded clips, read and verified."""
