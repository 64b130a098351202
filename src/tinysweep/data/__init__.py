"""Data sets: which there are, how they get onto this machine, and their images as tensors."""
