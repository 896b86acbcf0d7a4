"""An aggregator with the matching layer between its blocks."""

from dataclasses import replace

from torch import Tensor

from recon4d.layers import Matching
from recon4d.models.aggregator import Aggregator
from recon4d.models.tokens import Tokens
from recon4d.records import Cameras, Priors


def aggregate_and_match(
    aggregator: Aggregator,
    matching: Matching,
    tokens: Tokens,
    eighth: Tensor | None,
    times: Tensor,
    priors: Priors | None,
) -> Tokens:
    """Run all blocks of an aggregator, with the matching layer between them.

    Args:
        aggregator: The aggregator.
        matching: The matching layer.
        tokens: Tokens before the first block.
        eighth: Finer features of all frames of all clips; None if matching does without.
        times: Times in seconds (batch, time), NaN if unknown.
        priors: Known cameras for the epipolar filter; None if nothing is known.

    Returns:
        The tokens after the last block, with cell features and matches.
    """
    state, grid, after_block = tokens.state, tokens.grid, matching.after_block
    over_frames = state.tokens.shape[:2]
    state = aggregator(state, 0, after_block)
    cells = matching.features(state.patch_tokens.flatten(0, 1), eighth, grid).unflatten(0, over_frames)
    matches = matching.match_neighbors(cells, times, grid, matching.two_view_filter(known_cameras(priors)))
    state = state.add_to_patch_tokens(matching.token_update(matches, grid))
    state = aggregator(state, after_block, aggregator.config.depth)
    return replace(tokens, state=state, cell_features=cells, matches=matches)


def known_cameras(priors: Priors | None) -> Cameras | None:
    """Return given cameras.

    Args:
        priors: Priors of a batch of clips; None if nothing is known.

    Returns:
        Cameras, NaN where unknown; None without priors.
    """
    return None if priors is None else Cameras(priors.world_from_cam, priors.intrinsics)
