"""Sections of the HTML report for single clips: main metrics and pictures, with links to the worst clips."""

import base64
import math
from collections.abc import Callable, Sequence
from html import escape

from recon4d.eval.report.figures import method_swatch
from recon4d.eval.report.headline import HEADLINE, format_number, method_names
from recon4d.eval.scoring import METRICS, ClipResult

MAX_PICTURES = 200
"""Largest number of embedded pictures, so that the page opens quickly. Hand-tuned."""

NUM_LINKED = 8
"""Number of the worst clips that are linked at the top."""


def render_clip_sections(
    clips: Sequence[str], results: Sequence[ClipResult], picture: Callable[[str, str], bytes | None]
) -> str:
    """Render the sections of all scored clips.

    Args:
        clips: Names of the clips in the order of the benchmark; clips without results are skipped.
        results: Results of all methods and clips.
        picture: Returns the JPEG of a method and a clip; None if there is none.

    Returns:
        HTML of one section with a collapsed part for each clip.
    """
    scored = [clip for clip in clips if any(result.clip == clip for result in results)]
    if not scored:
        return "<section><h2>Clip by clip</h2><p>No clip was scored.</p></section>"
    methods = method_names(results)
    worst = worst_first(scored, results)
    pictured = select_pictured_clips(scored, worst, len(methods))
    links = ", ".join(f'<a href="#clip-{scored.index(clip)}">{escape(clip)}</a>' for clip in worst[:NUM_LINKED])
    left_out = (
        f"<p>Pictures of {len(pictured)} of {len(scored)} clips are on this page: the worst clips and a uniform "
        "selection of the others. All pictures are in the folder <code>pictures</code> next to it.</p>"
        if len(pictured) < len(scored)
        else ""
    )
    parts = []
    for place, clip in enumerate(scored):
        of_clip = [result for method in methods for result in results if (result.method, result.clip) == (method, clip)]
        parts.append(_clip_section(f"clip-{place}", clip, of_clip, methods, picture if clip in pictured else None))
    return (
        "<section><h2>Clip by clip</h2><p>Open a clip to see its metrics and pictures. A picture shows the first, the "
        "middle and the last frame. Near surfaces are bright; predicted depth is scaled once for the whole clip. Below "
        "is the camera path, with the predicted path aligned to the true one by a similarity transform.</p>"
        f"<p>Worst clips of {escape(methods[0])}: {links}</p>{left_out}{''.join(parts)}</section>"
    )


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


def _clip_section(
    anchor: str,
    clip: str,
    results: Sequence[ClipResult],
    methods: Sequence[str],
    picture: Callable[[str, str], bytes | None] | None,
) -> str:
    shown = [name for name in HEADLINE if any(result.score(name) for result in results)]
    heads = "".join(f"<th>{escape(name)}<small>{escape(METRICS[name].unit)}</small></th>" for name in shown)
    rows = []
    for result in results:
        cells = "".join(_cell(result, name) for name in shown)
        name = f"{method_swatch(methods.index(result.method))} {escape(result.method)}"
        rows.append(f'<tr><th scope="row">{name}</th><td>{escape(result.status)}</td>{cells}</tr>')
    statuses = ", ".join(f"{result.method} {result.status}" for result in results if result.status != "ok")
    pictures = "".join(_picture(result, picture) for result in results) if picture is not None else ""
    return (
        f'<details class="clip" id="{anchor}"><summary>{escape(clip)}'
        f"<small>{results[0].num_frames} frames{escape(f'; {statuses}' if statuses else '')}</small></summary>"
        f'<div class="wide"><table class="numbers"><thead><tr><th></th><th>status</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{pictures}</details>"
    )


def _cell(result: ClipResult, metric: str) -> str:
    """Render a table cell with the value; the note, such as why the value is undefined, is its tooltip."""
    score = result.score(metric)
    if score is None:
        return "<td>-</td>"
    note = f' title="{escape(score.note)}"' if score.note else ""
    return f"<td{note}>{format_number(score.value)}</td>"


def _picture(result: ClipResult, picture: Callable[[str, str], bytes | None]) -> str:
    data = picture(result.method, result.clip)
    reason = f'<p class="small">{escape(result.status)}: {escape(result.reason)}</p>' if result.reason else ""
    if data is None:
        return f'<h4>{escape(result.method)}</h4>{reason}<p class="small">There is no picture.</p>'
    name = escape(f"{result.method} on {result.clip}: frames, depth, depth error and camera path")
    source = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
    return f'<h4>{escape(result.method)}</h4>{reason}<img loading="lazy" alt="{name}" src="{source}">'
