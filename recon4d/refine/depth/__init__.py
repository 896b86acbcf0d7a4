"""Depth from refined cameras: alignment to points, plane-sweep stereo and multi-view consistency."""
