"""Losses of cameras, depth, points and motion: values by hand, gradients, and unknown ground truth."""

from scenes import HEIGHT, WIDTH, make_scene
from torch._subclasses.fake_tensor import FakeTensorMode

from recon4d.losses import (
    center_term,
    depth_gradient_term,
    depths_at_anchors,
    dynamic_term,
    field_of_view_term,
    is_known_off_anchor,
    log_depth_term,
    mean,
    merge_terms,
    motion_term,
    normalized,
    point_term,
    principal_point_term,
    relative_translation_term,
    rotation_term,
    sample_tracks,
    track_confidence_term,
    tracking_point_term,
    visibility_term,
)

SIZE = (HEIGHT, WIDTH)


def test_no_transfer_to_the_host() -> None:
    """Fake tensors have no values, so reading one on the host raises an error."""
    with FakeTensorMode() as mode:
        scene = normalized(make_scene(anchors=(0, 2)).map(mode.from_tensor))
        assert scene.tracks is not None
        depths = scene.depths.clone().requires_grad_()
        valid, anchor_depths = scene.depth_confidence > 0, depths_at_anchors(scene)
        tracks = sample_tracks(scene.tracks, scene.tracks.pixels, SIZE)
        terms = merge_terms(
            rotation_term(scene.cameras, scene.cameras),
            relative_translation_term(scene.cameras, scene.cameras),
            center_term(scene.cameras, scene.cameras),
            field_of_view_term(scene.cameras, scene.cameras, SIZE),
            principal_point_term(scene.cameras, scene.cameras, SIZE),
            log_depth_term(depths, scene.depth_confidence, scene.depths, valid),
            depth_gradient_term(depths, scene.depths, valid),
            point_term(scene.points, scene.point_confidence, scene.points, scene.depths, valid),
            tracking_point_term(tracks, scene.tracks, anchor_depths),
            motion_term(tracks, scene.tracks, anchor_depths),
            track_confidence_term(tracks, scene.tracks, anchor_depths),
            visibility_term(tracks.visibility, scene.tracks.visibility, is_known_off_anchor(scene.tracks)),
            dynamic_term(scene.dynamic, scene.dynamic),
        )
        mean(terms).backward()
