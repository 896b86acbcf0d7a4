"""Motion at any time: curves of the points that move, and the rigid pieces that they form."""

from recon4d.motion.sampling import curves_to_sample, sample_trajectories
from recon4d.motion.trajectories import fit_trajectories

__all__ = ["curves_to_sample", "fit_trajectories", "sample_trajectories"]
