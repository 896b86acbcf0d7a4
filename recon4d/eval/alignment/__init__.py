"""Alignment of predictions to the ground truth."""
