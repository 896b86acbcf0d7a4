"""Heads of Depth Anything 3: camera decoder, depth and rays, depth and sky, and cameras from rays."""
