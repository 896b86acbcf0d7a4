"""The page of the app: what is on it and where. What happens on it is in `events`."""

from typing import Any

from recon4d.app.controller import Controller
from recon4d.app.downloads import RESULTS, download_choices
from recon4d.app.events import Events, Results
from recon4d.app.examples import find_examples
from recon4d.app.gradio_loader import load_gradio
from recon4d.app.options import DEFAULT_FRAMES, MIN_FRAMES, model_choices
from recon4d.app.wording import CSS, EMPTY, INTRODUCTION

FONTS = ("system-ui", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
"""Fonts of the page, all of the person's own computer: no font is loaded."""
MONOSPACE_FONTS = ("ui-monospace", "Consolas", "monospace")
VIEW_HEIGHT = 480
"""Height of the 3D view in pixels."""
CAMERA = (None, None, 1.5)
"""Start of the 3D view: the direction of the viewer is its own, the distance suits a scene of radius 1. Hand-tuned."""
BACKGROUND = (0.93, 0.94, 0.96, 1.0)
"""Color of the background of the 3D view (RGBA)."""


def launch_options() -> dict[str, Any]:
    """Return the options with which the page is launched, beside its address.

    Returns:
        Keywords of `gradio.Blocks.launch`.
    """
    gradio = load_gradio()
    font = gradio.themes.Font
    theme = gradio.themes.Default(
        primary_hue="blue", font=list(map(font, FONTS)), font_mono=list(map(font, MONOSPACE_FONTS))
    )
    return {
        "prevent_thread_lock": True,
        "quiet": True,
        "share": False,
        "ssr_mode": False,  # would need node
        "show_error": False,  # messages of defects are not for people
        "footer_links": [],
        "theme": theme,
        "css": CSS,
    }


def build_page(controller: Controller) -> Any:
    """Build the page.

    Args:
        controller: What the page asks.

    Returns:
        The `gradio.Blocks`.
    """
    gradio = load_gradio()
    with gradio.Blocks(title="recon4d", analytics_enabled=False, fill_width=True) as page:
        gradio.Markdown(INTRODUCTION)
        with gradio.Row():
            with gradio.Column(scale=2, min_width=340):
                files, chosen, preview, buttons = _inputs(gradio)
                options = _options(gradio, controller)
                with gradio.Row():
                    run = gradio.Button("Reconstruct", variant="primary", interactive=False, elem_id="run")
                    cancel = gradio.Button("Cancel", interactive=False, elem_id="cancel")
                status = gradio.HTML(elem_id="status")
            with gradio.Column(scale=5, min_width=480):
                results = _results(gradio)
        events = Events(controller, results, files, chosen, preview, options, run, cancel, status)
        events.connect(page, buttons)
    page.queue(default_concurrency_limit=8)
    return page


def _inputs(gradio: Any) -> tuple[Any, Any, Any, list[tuple[Any, Any]]]:
    """The files, their preview and the buttons of the examples."""
    gradio.Markdown("### 1. Choose a video or pictures")
    files = gradio.File(label="One video, or several pictures", file_count="multiple", height=150, elem_id="files")
    with gradio.Row():
        examples = [
            (gradio.Button(example.label, size="sm", elem_classes="example"), example) for example in find_examples()
        ]
    chosen = gradio.HTML(elem_id="chosen")
    preview = gradio.Gallery(
        show_label=False,
        columns=3,
        height=215,
        object_fit="cover",
        visible=False,
        interactive=False,
        elem_id="preview",
    )
    return files, chosen, preview, examples


def _options(gradio: Any, controller: Controller) -> list[Any]:
    """The options, in the order of `Events.start`."""
    gradio.Markdown("### 2. Choose how")
    models = [(choice.label, choice.name) for choice in model_choices()]
    largest = controller.limits.frames
    frames = gradio.Slider(
        MIN_FRAMES,
        largest,
        value=min(DEFAULT_FRAMES, largest),
        step=1,
        label="Number of frames",
        info="More frames show more of the scene, and take longer.",
        elem_id="frames",
    )
    quality = gradio.Radio(
        [("Refined: exact, slower", True), ("Quick: a first impression", False)],
        value=True,
        label="Quality",
        elem_id="quality",
    )
    with gradio.Accordion("More options", open=False, elem_id="more"):
        model = gradio.Dropdown(models, value=models[0][1], label="Model", elem_id="model")
        tracked = gradio.Radio(
            [("First frame", "first"), ("Middle frame", "middle"), ("Nothing", "none")],
            value="first",
            label="Follow every point of this frame through time",
            info="For the downloads, which then contain 3D tracks.",
        )
        drop = gradio.Slider(
            0,
            80,
            value=20,
            step=5,
            label="Leave out the least certain points (%)",
            info="In the 3D view, and in points and surfaces to download.",
        )
    return [model, frames, quality, tracked, drop]


def _results(gradio: Any) -> Results:
    """The result, hidden until there is one."""
    empty = gradio.HTML(f'<div class="placeholder">{EMPTY}</div>')
    with gradio.Column(visible=False, elem_id="results") as shown:
        kind = gradio.Radio(
            [("What the camera sees at this time", "moment"), ("Whole scene, and what moves", "scene")],
            value="moment",
            label="3D view",
            elem_id="kind",
        )
        model = gradio.Model3D(
            show_label=False,
            height=VIEW_HEIGHT,
            clear_color=BACKGROUND,
            camera_position=CAMERA,
            interactive=False,
            elem_id="model3d",
        )
        time = gradio.Slider(0, 1, value=0, step=1, label="Time", elem_id="time")
        caption = gradio.Markdown(elem_id="caption")
        with gradio.Row():
            with gradio.Column(scale=3):
                gradio.Markdown("**Picture, distance (bright is near), and what moves (orange)**")
                video = gradio.Video(
                    show_label=False, interactive=False, autoplay=True, loop=True, buttons=["download"], elem_id="video"
                )
            with gradio.Column(scale=2):
                gradio.Markdown("**Path of the camera**")
                cameras = gradio.Image(
                    show_label=False, interactive=False, buttons=["fullscreen", "download"], elem_id="cameras"
                )
        with gradio.Accordion("What to distrust", open=True):
            distrust = gradio.Markdown(elem_id="distrust")
        with gradio.Accordion("Details of the result", open=False):
            summary = gradio.Markdown(elem_id="summary")
        with gradio.Accordion("Downloads", open=True, elem_id="downloads"):
            formats = gradio.CheckboxGroup(
                download_choices(), value=[RESULTS], label="What to download", elem_id="formats"
            )
            prepare = gradio.Button("Prepare the files", elem_id="prepare")
            prepared = gradio.File(label="Files", interactive=False, visible=False, elem_id="prepared")
    return Results(
        empty, shown, kind, model, time, caption, video, cameras, distrust, summary, formats, prepare, prepared
    )
