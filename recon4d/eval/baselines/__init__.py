"""Baselines: COLMAP and the static camera."""
