"""Tables of sampled motion for the terminal: one for each part and source of observations."""

import io
import math
from collections.abc import Sequence
from dataclasses import astuple, fields
from statistics import mean

from recon4d.eval.metrics.motion_samples import MotionScores
from recon4d.eval.motion_evaluation import PARTS, ClipMotionScores

TITLES = {
    "hidden": "dynamic points while they are hidden",
    "later": "dynamic points after the observed frames",
    "static": "points that stand still",
}
COLUMNS = {
    "best": "best",
    "best_together": "best of clip",
    "mean": "mean",
    "energy": "energy score",
    "diversity": "diversity",
    "within_50": "within 50 %",
    "within_90": "within 90 %",
}


def mean_scores(
    results: Sequence[ClipMotionScores], observations: str, part: str, prediction: str
) -> MotionScores | None:
    """Average the scores of one prediction over clips.

    Args:
        results: Scores of all clips.
        observations: "true" or "predicted".
        part: What is scored.
        prediction: Name of the prediction.

    Returns:
        Mean scores, with the number of tracks of all clips; None if no clip has any.
    """
    chosen = [
        astuple(result.scores)
        for result in results
        if (result.observations, result.part, result.prediction) == (observations, part, prediction)
    ]
    if not chosen:
        return None
    columns = list(zip(*chosen, strict=True))
    return MotionScores(*(mean(column) for column in columns[:-1]), tracks=sum(columns[-1]))


def motion_tables(results: Sequence[ClipMotionScores], num_samples: int) -> str:
    """Format the scores as plain text.

    Args:
        results: Scores of all clips.
        num_samples: Number of samples.

    Returns:
        Tables, and for the samples the ratio of their errors to those of the best baseline.
    """
    from rich.console import Console
    from rich.table import Table

    console = Console(file=io.StringIO(), markup=False, highlight=False, emoji=False, width=160)
    predictions = list(dict.fromkeys(result.prediction for result in results))
    for observations in ("true", "predicted"):
        for part in PARTS:
            found = {name: mean_scores(results, observations, part, name) for name in predictions}
            rows = {name: scores for name, scores in found.items() if scores is not None}
            if not rows:
                continue
            clips = len({r.clip for r in results if (r.observations, r.part) == (observations, part)})
            title = f"{observations} observations, {TITLES[part]}: {clips} clips, meters, {num_samples} samples"
            table = Table(*("prediction", *COLUMNS.values()), title=title, title_justify="left", box=None)
            for name, scores in rows.items():
                values = [getattr(scores, field.name) for field in fields(scores) if field.name in COLUMNS]
                table.add_row(name, *("" if math.isnan(value) else f"{value:.4f}" for value in values))
            console.print(table)
            console.print(_ratios(rows))
            console.print()
    text = console.file
    assert isinstance(text, io.StringIO)
    return text.getvalue().rstrip("\n")


def _ratios(rows: dict[str, MotionScores]) -> str:
    """Return errors of the samples over that of the best single prediction."""
    singles = {name: scores.mean for name, scores in rows.items() if not name.startswith("samples")}
    if not singles or "samples" not in rows:
        return ""
    name = min(singles, key=singles.__getitem__)
    ours = rows["samples"]
    ratios = {key: getattr(ours, key) / max(singles[name], 1e-12) for key in ("best", "mean", "energy")}
    return f"samples over {name}: " + ", ".join(f"{key} {value:.2f}" for key, value in ratios.items())
