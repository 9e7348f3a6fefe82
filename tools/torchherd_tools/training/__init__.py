"""Data, training and evaluation of CycleGANs."""
