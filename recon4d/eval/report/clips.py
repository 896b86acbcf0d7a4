"""The clips of a report's page, one by one: main numbers and pictures, the worst linked at the top."""

import base64
import math
from collections.abc import Callable, Sequence
from html import escape

from recon4d.eval.report.figures import method_swatch
from recon4d.eval.report.headline import HEADLINE, method_names, number
from recon4d.eval.scoring import METRICS, ClipResult

MAX_PICTURES = 200
"""No more pictures are embedded: a page should open at once."""

NUM_LINKED = 8
"""How many of the worst clips are linked."""


def clip_sections(
    clips: Sequence[str], results: Sequence[ClipResult], picture: Callable[[str, str], bytes | None]
) -> str:
    """Every clip in the order of the benchmark; unreadable ones, which have no results, are left out."""
    scored = [clip for clip in clips if any(result.clip == clip for result in results)]
    if not scored:
        return "<section><h2>Clip by clip</h2><p>No clip was scored.</p></section>"
    methods = method_names(results)
    worst = worst_first(scored, results)
    pictured = pictured_clips(scored, worst, len(methods))
    links = ", ".join(f'<a href="#clip-{scored.index(clip)}">{escape(clip)}</a>' for clip in worst[:NUM_LINKED])
    left_out = (
        f"<p>Pictures of {len(pictured)} of {len(scored)} clips are on this page: the worst, and others evenly spread. "
        "All lie in the folder <code>pictures</code> beside it.</p>"
        if len(pictured) < len(scored)
        else ""
    )
    parts = []
    for place, clip in enumerate(scored):
        of_clip = [result for method in methods for result in results if (result.method, result.clip) == (method, clip)]
        parts.append(_clip_section(f"clip-{place}", clip, of_clip, methods, picture if clip in pictured else None))
    return (
        "<section><h2>Clip by clip</h2><p>Open a clip for its numbers and pictures. A picture shows the first, the "
        "middle and the last frame; near surfaces are bright, and predicted depth has one scale for the whole clip. "
        "Below is the path of the camera, the predicted one turned, shifted and scaled to the true one.</p>"
        f"<p>Worst clips of {escape(methods[0])}: {links}</p>{left_out}{''.join(parts)}</section>"
    )


def worst_first(clips: Sequence[str], results: Sequence[ClipResult]) -> list[str]:
    """Clips by auc_30 of the first method, the lowest first, then by its abs_rel, the highest first.

    A clip without an auc_30 is no worse than others; one without an abs_rel is worse.
    """
    of_first = {result.clip: result for result in results if result.method == results[0].method}

    def badness(clip: str) -> tuple[float, float]:
        return _or(of_first[clip], "auc_30", 1.0), -_or(of_first[clip], "abs_rel", math.inf)

    return sorted((clip for clip in clips if clip in of_first), key=badness)


def pictured_clips(clips: Sequence[str], worst: Sequence[str], num_methods: int) -> frozenset[str]:
    """All clips where their pictures are no more than `MAX_PICTURES`; else the worst, and as many evenly spread."""
    count = MAX_PICTURES // num_methods
    if len(clips) <= count:
        return frozenset(clips)
    chosen = list(worst[: count // 2])
    others = [clip for clip in clips if clip not in chosen]
    wanted = count - len(chosen)
    return frozenset([*chosen, *(others[place * len(others) // wanted] for place in range(wanted))])


def _or(result: ClipResult, metric: str, otherwise: float) -> float:
    score = result.score(metric)
    return otherwise if score is None or math.isnan(score.value) else score.value


def _clip_section(
    anchor: str,
    clip: str,
    results: Sequence[ClipResult],
    methods: Sequence[str],
    picture: Callable[[str, str], bytes | None] | None,
) -> str:
    shown = [name for name in HEADLINE if any(result.score(name) for result in results)]
    heads = "".join(f"<th>{name}<small>{escape(METRICS[name].unit)}</small></th>" for name in shown)
    rows = []
    for result in results:
        cells = "".join(_cell(result, name) for name in shown)
        name = f"{method_swatch(methods.index(result.method))} {escape(result.method)}"
        rows.append(f'<tr><th scope="row">{name}</th><td>{result.status}</td>{cells}</tr>')
    told = ", ".join(f"{result.method} {result.status}" for result in results if result.status != "ok")
    pictures = "".join(_picture(result, picture) for result in results) if picture is not None else ""
    return (
        f'<details class="clip" id="{anchor}"><summary>{escape(clip)}'
        f"<small>{results[0].num_frames} frames{escape(f'; {told}' if told else '')}</small></summary>"
        f'<div class="wide"><table class="numbers"><thead><tr><th></th><th>status</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{pictures}</details>"
    )


def _cell(result: ClipResult, metric: str) -> str:
    """The value; what it says of itself, as why it is undefined, stands behind it."""
    score = result.score(metric)
    if score is None:
        return "<td>-</td>"
    note = f' title="{escape(score.note)}"' if score.note else ""
    return f"<td{note}>{number(score.value)}</td>"


def _picture(result: ClipResult, picture: Callable[[str, str], bytes | None]) -> str:
    data = picture(result.method, result.clip)
    reason = f'<p class="small">{escape(result.status)}: {escape(result.reason)}</p>' if result.reason else ""
    if data is None:
        return f'<h4>{escape(result.method)}</h4>{reason}<p class="small">There is no picture.</p>'
    name = escape(f"{result.method} on {result.clip}: frames, depth, depth error and camera path")
    source = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
    return f'<h4>{escape(result.method)}</h4>{reason}<img loading="lazy" alt="{name}" src="{source}">'
