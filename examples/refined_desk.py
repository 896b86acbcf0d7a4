"""Picture of a refined reconstruction: pictures and depth above, the point cloud and the camera path from two sides.

recon4d reconstruct examples/freiburg2_desk --out out/desk
python examples/refined_desk.py --scene out/desk --out out/desk.jpg
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from recon4d.io.saved_results import SavedResults, read_results

MAX_POINTS = 60_000
"""Largest number of points that are drawn."""

MAX_RELATIVE_DISTANCE = 1.7
"""Largest distance of a drawn point from the first camera, relative to the median: the background is far away."""


@dataclass(frozen=True)
class Arguments:
    """Draw a reconstruction."""

    scene: Path
    """Folder that `recon4d reconstruct` wrote."""
    out: Path
    """Picture to write."""


def main(arguments: Arguments) -> None:
    """Draw the picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    results = read_results(arguments.scene)
    scene, images = results.scene, results.images_at_map_size()
    first, last = 0, scene.num_frames - 1
    figure = pyplot.figure(figsize=(12, 6.4), dpi=100)
    grid = figure.add_gridspec(2, 4, height_ratios=(1, 1.9), hspace=0.02, wspace=0.02)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.99)
    for column, frame in enumerate((first, last)):
        picture = figure.add_subplot(grid[0, 2 * column])
        picture.imshow(images[frame].permute(1, 2, 0).numpy())
        picture.set_axis_off()
        known = torch.where(scene.depth_confidence[frame] > 0, scene.depths[frame], torch.nan)
        depth = figure.add_subplot(grid[0, 2 * column + 1])
        depth.imshow((1 / known).numpy(), cmap="turbo")
        depth.set_axis_off()
    points, colors, centers = colored_points(results)
    for column, (across, up, name) in enumerate(((0, 1, "from the front"), (2, 1, "from the side"))):
        view = figure.add_subplot(grid[1, 2 * column : 2 * column + 2])
        nearness = points[:, 2 if across == 0 else 0]
        order = np.argsort(-nearness)
        view.scatter(points[order, across], -points[order, up], c=colors[order], s=2.5, linewidths=0)
        view.plot(centers[:, across], -centers[:, up], color="crimson", marker="o", markersize=4, linewidth=1.5)
        view.set_aspect("equal")
        view.set_axis_off()
        view.set_title(f"points and camera path {name}", fontsize=9, y=-0.02)
    figure.savefig(arguments.out, pil_kwargs={"quality": 85})
    print(f"{arguments.out}: {len(points)} points of {scene.num_frames} frames")


def colored_points(results: SavedResults) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the points with verified depth, their colors in [0, 1], and the camera centers, in the first camera."""
    scene, images = results.scene, results.images_at_map_size()
    verified = scene.depth_confidence >= scene.depth_confidence.max()
    points, colors = [], []
    for frame in range(scene.num_frames):
        points.append(scene.points_from_depth[frame][verified[frame]])
        colors.append(images[frame].permute(1, 2, 0)[verified[frame]] / 255)
    chosen = torch.randperm(sum(map(len, points)), generator=torch.Generator().manual_seed(0))[:MAX_POINTS]
    cloud, shades, centers = torch.cat(points)[chosen], torch.cat(colors)[chosen], scene.cameras.centers
    distances = (cloud - centers[0]).norm(dim=-1)
    is_near = distances <= MAX_RELATIVE_DISTANCE * distances.median()
    return cloud[is_near].numpy(), shades[is_near].numpy(), centers.numpy()


if __name__ == "__main__":
    main(tyro.cli(Arguments))
