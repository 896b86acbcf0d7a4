"""Clips with truth: endless synthetic worlds, and the data sets of the field from disk."""

from recon4d.datasets.sample import Sample, Trajectories, true_scene
from recon4d.datasets.sequences import DataError, Sequences

__all__ = ["DataError", "Sample", "Sequences", "Trajectories", "true_scene"]
