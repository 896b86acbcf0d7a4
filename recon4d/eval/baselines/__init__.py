"""Baselines that networks are compared with: COLMAP and a static camera."""
