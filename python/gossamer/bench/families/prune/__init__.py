"""Masks of dense weights."""
