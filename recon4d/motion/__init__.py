"""Motion at any time: curves of the points that move, and the rigid pieces that they form."""

from recon4d.motion.trajectories import fit_trajectories

__all__ = ["fit_trajectories"]
