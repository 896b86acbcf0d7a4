"""Corner tracks: detection, sub-pixel tracking, the two-view filter and the selection of static tracks."""
