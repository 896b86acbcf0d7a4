"""Tests of camera hypotheses: which frames are constrained by tracks, and which intrinsics are plausible."""

import torch

from recon4d.refine.cameras.hypotheses import constrained_frames


def test_constrained_frames_are_the_largest_group_connected_by_shared_tracks() -> None:
    is_observed = torch.zeros(6, 60, dtype=torch.bool)
    is_observed[0:3, :20] = True  # 0, 1 and 2 share 20
    is_observed[2:4, 20:30] = True  # 2 and 3 share 10
    is_observed[4:6, 30:60] = True  # 4 and 5 share 30, and none with other frames
    assert constrained_frames(is_observed, 10).tolist() == [True, True, True, True, False, False]
    assert constrained_frames(is_observed, 11).tolist() == [True, True, True, False, False, False]
    path = torch.zeros(9, 80, dtype=torch.bool)
    for frame in range(8):
        path[frame : frame + 2, 10 * frame : 10 * frame + 10] = True
    assert constrained_frames(path, 10).all()
