"""Depth from refined cameras: alignment to triangulated points, plane-sweep stereo and multi-view consistency."""
