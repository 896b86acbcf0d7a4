"""Heads of the VGGT family: camera heads, pose encoding and point tracker."""
