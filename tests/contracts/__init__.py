"""Contracts that hold for every built-in energy, kernel and metric."""
