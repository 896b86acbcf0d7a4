"""Geometry on plain tensors: rotations, rigid and similarity transforms, pinhole projection, least-squares fits."""

from recon4d.geometry.fits import fit_rigid, fit_similarity
from recon4d.geometry.pinhole import (
    cropped_intrinsics,
    field_of_view,
    intrinsics_from_field_of_view,
    padded_intrinsics,
    pixel_grid,
    project,
    resized_intrinsics,
    unproject,
    unproject_map,
)
from recon4d.geometry.pixel_choice import evenly_spaced, is_depth_edge, rows_and_columns, stratified_indices, thin
from recon4d.geometry.resampling import resize_map
from recon4d.geometry.rotations import (
    nearest_rotation,
    quaternion_from_rotation,
    rotation_angle,
    rotation_from_6d,
    rotation_from_axis_angle,
    rotation_from_quaternion,
    rotation_to_6d,
)
from recon4d.geometry.transforms import (
    given_or_beside,
    invert,
    rebase_cameras,
    rigid,
    similarity,
    similarity_scale,
    transform_points,
)

__all__ = [
    "cropped_intrinsics",
    "evenly_spaced",
    "field_of_view",
    "fit_rigid",
    "fit_similarity",
    "given_or_beside",
    "intrinsics_from_field_of_view",
    "invert",
    "is_depth_edge",
    "nearest_rotation",
    "padded_intrinsics",
    "pixel_grid",
    "project",
    "quaternion_from_rotation",
    "rebase_cameras",
    "resize_map",
    "resized_intrinsics",
    "rigid",
    "rotation_angle",
    "rotation_from_6d",
    "rotation_from_axis_angle",
    "rotation_from_quaternion",
    "rotation_to_6d",
    "rows_and_columns",
    "similarity",
    "similarity_scale",
    "stratified_indices",
    "thin",
    "transform_points",
    "unproject",
    "unproject_map",
]
