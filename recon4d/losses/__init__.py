"""Loss terms that compare a predicted scene and its matches with the ground truth, or several frames with each other.

Each function returns a `Term`, the sum and the count of its errors, so that terms can be averaged over ranks and
micro-batches.
"""

from recon4d.losses.cameras import (
    center_term,
    field_of_view_term,
    principal_point_term,
    relative_translation_term,
    rotation_term,
)
from recon4d.losses.confidence_regression import confidence_terms, filtered_term, gradient_terms
from recon4d.losses.correspondence import TrueMatches, true_matches
from recon4d.losses.depth import depth_gradient_term, log_depth_term
from recon4d.losses.local_alignment import affine_invariant_point_term, local_point_terms
from recon4d.losses.matching import MatchingTerms, matching_terms
from recon4d.losses.motion import (
    depths_at_anchors,
    dynamic_term,
    is_known_off_anchor,
    motion_term,
    sample_at_pixels,
    sample_tracks,
    track_confidence_term,
    visibility_term,
)
from recon4d.losses.normalization import in_predicted_unit, normalized, scene_scale
from recon4d.losses.normals import normal_angle_term, normal_cosine_terms
from recon4d.losses.photometric import best_neighbor_photometric_term, photometric_term
from recon4d.losses.points import point_term, tracking_point_term
from recon4d.losses.semantic import semantic_term
from recon4d.losses.term import Term, masked_term, mean, merge_terms
from recon4d.losses.warping import Warp, is_unoccluded, warp_static, warp_tracked

__all__ = [
    "MatchingTerms",
    "Term",
    "TrueMatches",
    "Warp",
    "affine_invariant_point_term",
    "best_neighbor_photometric_term",
    "center_term",
    "confidence_terms",
    "depth_gradient_term",
    "depths_at_anchors",
    "dynamic_term",
    "field_of_view_term",
    "filtered_term",
    "gradient_terms",
    "in_predicted_unit",
    "is_known_off_anchor",
    "is_unoccluded",
    "local_point_terms",
    "log_depth_term",
    "masked_term",
    "matching_terms",
    "mean",
    "merge_terms",
    "motion_term",
    "normal_angle_term",
    "normal_cosine_terms",
    "normalized",
    "photometric_term",
    "point_term",
    "principal_point_term",
    "relative_translation_term",
    "rotation_term",
    "sample_at_pixels",
    "sample_tracks",
    "scene_scale",
    "semantic_term",
    "track_confidence_term",
    "tracking_point_term",
    "true_matches",
    "visibility_term",
    "warp_static",
    "warp_tracked",
]
