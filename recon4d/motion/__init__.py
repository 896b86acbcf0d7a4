"""Motion at any time: curves of the points that move, the rigid pieces that they form, Gaussian splats on them."""

from recon4d.motion.gaussians import dynamic_gaussians, scene_gaussians
from recon4d.motion.trajectories import fit_trajectories

__all__ = ["dynamic_gaussians", "fit_trajectories", "scene_gaussians"]
