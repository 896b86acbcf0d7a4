"""Corner tracks: detection, sub-pixel tracking, two-view filtering and selection."""
