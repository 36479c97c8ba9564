"""Microbenchmarks: `gossamer bench`. Nothing of the library imports this package."""
