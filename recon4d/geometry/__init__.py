"""Geometry on plain tensors: rotations, rigid and similarity transforms, pinhole cameras, fits and resampling."""

from recon4d.geometry.fits import fit_rigid, fit_similarity, robust_path_scale
from recon4d.geometry.pinhole import (
    cropped_intrinsics,
    field_of_view,
    intrinsics_from_field_of_view,
    is_in_image,
    padded_intrinsics,
    pixel_grid,
    project,
    resized_intrinsics,
    unproject,
    unproject_map,
)
from recon4d.geometry.pixel_sampling import (
    evenly_spaced_indices,
    is_depth_edge,
    pixel_indices,
    stratified_indices,
    subsample_mask,
)
from recon4d.geometry.resampling import resize_map
from recon4d.geometry.rigs import RigFit, fit_rig
from recon4d.geometry.rotations import (
    nearest_rotation,
    quaternion_from_rotation,
    rotation_angle,
    rotation_from_axis_angle,
    rotation_from_quaternion,
    rotation_to_6d,
)
from recon4d.geometry.transforms import (
    fill_missing_cameras,
    invert,
    rigid,
    similarity,
    similarity_scale,
    transform_cameras,
    transform_points,
)
from recon4d.geometry.two_view import fundamental_matrices

__all__ = [
    "RigFit",
    "cropped_intrinsics",
    "evenly_spaced_indices",
    "field_of_view",
    "fill_missing_cameras",
    "fit_rig",
    "fit_rigid",
    "fit_similarity",
    "fundamental_matrices",
    "intrinsics_from_field_of_view",
    "invert",
    "is_depth_edge",
    "is_in_image",
    "nearest_rotation",
    "padded_intrinsics",
    "pixel_grid",
    "pixel_indices",
    "project",
    "quaternion_from_rotation",
    "resize_map",
    "resized_intrinsics",
    "rigid",
    "robust_path_scale",
    "rotation_angle",
    "rotation_from_axis_angle",
    "rotation_from_quaternion",
    "rotation_to_6d",
    "similarity",
    "similarity_scale",
    "stratified_indices",
    "subsample_mask",
    "transform_cameras",
    "transform_points",
    "unproject",
    "unproject_map",
]
