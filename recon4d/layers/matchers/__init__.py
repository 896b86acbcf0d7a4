"""Matchers: ways to assign the cells of one frame to those of another, behind one interface (`Matcher`)."""

from recon4d.layers.matchers.assignment import Assignment, Matcher
from recon4d.layers.matchers.hough import HoughMatcher
from recon4d.layers.matchers.nearest import NearestMatcher
from recon4d.layers.matchers.sinkhorn import SinkhornMatcher, sinkhorn
from recon4d.layers.matchers.soft import SoftMatcher, soft_match
from recon4d.layers.matchers.two_view_filter import TwoViewFilter, two_view_mask

__all__ = [
    "Assignment",
    "HoughMatcher",
    "Matcher",
    "NearestMatcher",
    "SinkhornMatcher",
    "SoftMatcher",
    "TwoViewFilter",
    "sinkhorn",
    "soft_match",
    "two_view_mask",
]
