"""Depth Anything 3 with its published weights."""

from recon4d.zoo.da3.da3 import from_da3

__all__ = ["from_da3"]
