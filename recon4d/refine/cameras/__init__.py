"""Cameras from tracks: bundle adjustment, rotation-only cameras, hypotheses and model selection."""
