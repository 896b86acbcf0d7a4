"""Alignment of predictions to the ground truth by scale, shift and similarity transforms."""
