"""Cameras from feature tracks: bundle adjustment, rotation-only cameras, COLMAP's mapper and model selection."""
