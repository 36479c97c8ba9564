"""Sparse operations for deep learning."""
