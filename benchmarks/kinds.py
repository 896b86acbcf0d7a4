"""Scores by kind of clip, and the effect of refinement: ``python -m benchmarks.kinds out/worlds-v1/clips.csv``.

Reads the table that ``recon4d evaluate --benchmark worlds-v1`` writes. A clip of worlds-v1 is "still" (a static camera
and moving objects), "dynamic" (at least a sixth of the first frame is dynamic), or "calm" (all others).
"""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated

import tyro

from recon4d.datasets.synthetic.worlds_v1 import WORLDS_V1, measure_statistics

METRICS = ("auc_30", "auc_5", "abs_rel", "point_epe")
"""Columns of the printed table."""
KINDS = ("calm", "dynamic", "still")
"""Kinds of clips, in the order of the table."""


@dataclass(frozen=True)
class Arguments:
    """Average the scores of an evaluation by kind of clip."""

    clips: Annotated[Path, tyro.conf.Positional]
    """The clips.csv of an evaluation on worlds-v1."""
    split: str = "8"
    """Split of worlds-v1 that was evaluated."""


def main(arguments: Arguments) -> None:
    """Print mean scores by method and kind of clip, and the range of changes by refinement."""
    with arguments.clips.open(newline="") as file:
        rows = list(csv.DictReader(file))
    scores = {(row["method"], row["clip"]): {metric: _number(row[metric]) for metric in METRICS} for row in rows}
    methods = list(dict.fromkeys(row["method"] for row in rows))
    kinds = {clip: _kind(arguments.split, clip) for clip in dict.fromkeys(row["clip"] for row in rows)}
    print(f"{'':24}{'kind':10}{'clips':>6}" + "".join(f"{metric:>12}" for metric in METRICS))
    for method in methods:
        for kind in KINDS:
            clips = [clip for clip, its_kind in kinds.items() if its_kind == kind and (method, clip) in scores]
            means = [_mean([scores[method, clip][metric] for clip in clips]) for metric in METRICS]
            print(f"{method:24}{kind:10}{len(clips):>6}" + "".join(f"{mean:>12.3f}" for mean in means))
    for method in methods:
        refined = f"{method}+refine"
        if refined in methods:
            changes = [scores[refined, clip]["auc_30"] - scores[method, clip]["auc_30"] for clip in kinds]
            changes = [change for change in changes if not math.isnan(change)]
            lowest, highest = min(changes), max(changes)
            print(f"{refined}: auc_30 of a clip changes by {lowest:+.3f} to {highest:+.3f} ({len(changes)} clips)")


def _kind(split: str, clip: str) -> str:
    of_split = WORLDS_V1[split]
    found = measure_statistics(of_split.scene(int(clip.removeprefix("world_"))), of_split.config)
    return "still" if found.has_static_camera else "dynamic" if found.is_dynamic else "calm"


def _number(text: str) -> float:
    return float(text) if text else math.nan


def _mean(values: list[float]) -> float:
    finite = [value for value in values if not math.isnan(value)]
    return fmean(finite) if finite else math.nan


if __name__ == "__main__":
    main(tyro.cli(Arguments))
