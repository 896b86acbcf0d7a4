"""Scores by kind of clip, and what refinement cost or gained: ``python -m benchmarks.kinds out/worlds-v1/clips.csv``.

Reads what ``recon4d evaluate --benchmark worlds-v1`` wrote. Clips of worlds-v1 are still (the camera stays in its place
while something moves), dynamic (a sixth of the first frame moves, or more), or calm (the others).
"""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated

import tyro

from recon4d.datasets.synthetic.worlds_v1 import WORLDS_V1, statistics

METRICS = ("auc_30", "auc_5", "abs_rel", "point_epe")
KINDS = ("calm", "dynamic", "still")


@dataclass(frozen=True)
class Arguments:
    """Take the scores of an evaluation apart."""

    clips: Annotated[Path, tyro.conf.Positional]
    """The clips.csv of an evaluation on worlds-v1."""
    split: str = "8"


def main(arguments: Arguments) -> None:
    with arguments.clips.open(newline="") as file:
        rows = list(csv.DictReader(file))
    scores = {(row["method"], row["clip"]): {metric: _number(row[metric]) for metric in METRICS} for row in rows}
    methods = list(dict.fromkeys(row["method"] for row in rows))
    kinds = {clip: _kind(arguments.split, clip) for clip in dict.fromkeys(row["clip"] for row in rows)}
    print(f"{'':24}{'kind':10}{'clips':>6}" + "".join(f"{metric:>12}" for metric in METRICS))
    for method in methods:
        for kind in KINDS:
            clips = [clip for clip, of in kinds.items() if of == kind and (method, clip) in scores]
            means = [_mean([scores[method, clip][metric] for clip in clips]) for metric in METRICS]
            print(f"{method:24}{kind:10}{len(clips):>6}" + "".join(f"{mean:>12.3f}" for mean in means))
    for method in methods:
        refined = f"{method}+refine"
        if refined in methods:
            gains = [scores[refined, clip]["auc_30"] - scores[method, clip]["auc_30"] for clip in kinds]
            gains = [gain for gain in gains if not math.isnan(gain)]
            print(f"{refined}: auc_30 of a clip changes by {min(gains):+.3f} to {max(gains):+.3f} ({len(gains)} clips)")


def _kind(split: str, clip: str) -> str:
    of_split = WORLDS_V1[split]
    found = statistics(of_split.world(int(clip.removeprefix("world_"))), of_split.config)
    return "still" if found.has_still_camera else "dynamic" if found.is_dynamic else "calm"


def _number(text: str) -> float:
    return float(text) if text else math.nan


def _mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return fmean(known) if known else math.nan


if __name__ == "__main__":
    main(tyro.cli(Arguments))
