"""Readers of camera poses and intrinsics."""
