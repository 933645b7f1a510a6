"""Repetition: runs of a kernel, annealing, tempering, and the deterministic flow of a score."""
