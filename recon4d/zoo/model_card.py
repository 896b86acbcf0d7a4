"""The model card of a saved model: what it is, how it is used, how far its results can be trusted."""

from recon4d import __version__
from recon4d.models import MonoModel, SceneModel, predicts_dense_tracks
from recon4d.zoo.registry import ZooEntry

_CARD = """\
# {{ model.name }}

A network of [recon4d](https://pypi.org/project/recon4d): one forward pass turns the frames of a video, or photos, into
{{ outputs }}.

| | |
|---|---|
| architecture | {{ kind }}, backbone {{ entry.backbone if entry else model.config.backbone.__class__.__name__ }} |
| parameters | {{ "%.1f"|format(model.num_parameters() / 1e6) }} million |
| image size | the area of a square of {{ side }} pixels, sides in multiples of {{ model.patch_size }} |
| license | {{ license or "not recorded: ask whoever gave you the weights" }} |
| saved by | recon4d {{ version }} |

## Use

```python
import recon4d

model = recon4d.models.{{ kind }}.from_pretrained("path or repository of these files")
scene = model.infer("video.mp4")
print(scene.cameras.world_from_cam, scene.depths.shape)
```

On the command line: `recon4d reconstruct video.mp4 --model model.safetensors`.

## Limits
{% if not model.trained %}
**These weights were never trained: the results have the right shapes and no meaning.**
{% endif %}
{%- if calibration %}
Confidence ranks the pixels of a clip. It was calibrated on {{ calibration.measured_on }}: `recon4d info` turns it into
expected errors relative to depth.
{% else %}
Confidence ranks the pixels of one clip. It was not calibrated, so it tells no errors and cannot be compared between
clips (`recon4d calibrate`).
{% endif %}
Lengths are in the unit of the scene, unless the model is metric. Depth is a guess where the camera does not translate.
`recon4d info` on a result names what to distrust.
"""


def model_card(model: SceneModel, entry: ZooEntry | None) -> str:
    """Write the model card of a model in the form of the Hugging Face hub.

    Args:
        model: The model.
        entry: Entry of the zoo with the model's name; None for models that are not in the zoo.

    Returns:
        Markdown with metadata at its top.
    """
    from huggingface_hub import ModelCard, ModelCardData

    license_text = None if entry is None else _license(entry)
    is_apache = license_text is not None and license_text.startswith("Apache-2.0")
    data = ModelCardData(
        library_name="recon4d",
        pipeline_tag="depth-estimation",
        tags=["4d-reconstruction", "camera-pose-estimation", "depth-estimation", "point-tracking"],
        license=None if license_text is None else "apache-2.0" if is_apache else "other",
        license_name=None if is_apache else license_text,
    )
    card = ModelCard.from_template(
        data,
        template_str="---\n{{ card_data }}\n---\n\n" + _CARD,
        model=model,
        entry=entry,
        kind=type(model).__name__,
        side=model.config.processing_size,
        outputs=_outputs(model),
        license=license_text,
        calibration=model.calibration,
        version=__version__,
    )
    return str(card).rstrip() + "\n"


def _license(entry: ZooEntry) -> str | None:
    """Return the license of the weights of a model of the zoo; None if there are none."""
    if entry.published is not None:
        return entry.published.license
    if entry.weights_file is not None:
        return "Apache-2.0"
    return None if entry.backbone_license == "-" else entry.backbone_license


def _outputs(model: SceneModel) -> str:
    """Name what a model predicts."""
    if isinstance(model, MonoModel):
        return "depth of single pictures"
    if predicts_dense_tracks(model):
        return "cameras, depth, point maps, what moves and 3D tracks of every pixel, each with its confidence"
    return "cameras, depth and point maps, each with its confidence"
