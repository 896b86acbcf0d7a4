"""Choice of the clips of the HTML report that are linked as the worst ones and that are shown with pictures."""

import math
from collections.abc import Sequence

from recon4d.eval.scoring import ClipResult

MAX_PICTURES = 200
"""Largest number of embedded pictures, so that the page opens quickly. Hand-tuned."""


def worst_first(clips: Sequence[str], results: Sequence[ClipResult]) -> list[str]:
    """Sort clips by the scores of the first method: by ascending auc_30, then by descending abs_rel.

    Args:
        clips: Names of the clips.
        results: Results of all methods and clips.

    Returns:
        The clips that have a result, the worst first. A clip without an auc_30 counts as 1; a clip without an abs_rel
        counts as infinitely wrong.
    """
    of_first = {result.clip: result for result in results if result.method == results[0].method}

    def badness(clip: str) -> tuple[float, float]:
        return _value_or(of_first[clip], "auc_30", 1.0), -_value_or(of_first[clip], "abs_rel", math.inf)

    return sorted((clip for clip in clips if clip in of_first), key=badness)


def select_pictured_clips(clips: Sequence[str], worst: Sequence[str], num_methods: int) -> frozenset[str]:
    """Select the clips whose pictures are embedded.

    Args:
        clips: Names of the clips.
        worst: The same clips, the worst first.
        num_methods: Number of pictures of each clip.

    Returns:
        All clips if they have at most `MAX_PICTURES` pictures; else half of that number are the worst clips and half
        are a uniform selection of the others.
    """
    count = MAX_PICTURES // num_methods
    if len(clips) <= count:
        return frozenset(clips)
    chosen = list(worst[: count // 2])
    others = [clip for clip in clips if clip not in chosen]
    wanted = count - len(chosen)
    return frozenset([*chosen, *(others[place * len(others) // wanted] for place in range(wanted))])


def _value_or(result: ClipResult, metric: str, default: float) -> float:
    score = result.score(metric)
    return default if score is None or math.isnan(score.value) else score.value
