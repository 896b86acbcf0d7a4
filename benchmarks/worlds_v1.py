"""Statistics of the frozen benchmark worlds-v1: ``python -m benchmarks.worlds_v1``."""

import statistics
from dataclasses import dataclass

import tyro

from recon4d.datasets.synthetic import worlds_v1


@dataclass(frozen=True)
class Arguments:
    """Print the statistics that selected the clips of worlds-v1."""

    split: tuple[str, ...] = tuple(worlds_v1.WORLDS_V1)
    """Splits to print."""


def main(arguments: Arguments) -> None:
    """Print the statistics of each split."""
    for name in arguments.split:
        split = worlds_v1.WORLDS_V1[name]
        clips = [worlds_v1.measure_statistics(split.scene(i), split.config) for i in range(len(split.indices))]
        moving_cameras = [clip for clip in clips if not clip.has_static_camera]
        overlap = [clip.overlap for clip in moving_cameras]
        dynamic_share = statistics.mean(clip.dynamic_share for clip in clips)
        angles = [clip.field_of_view for clip in clips]
        size = f"{split.config.width}x{split.config.height}"
        print(f"worlds-v1 split {name}: {len(clips)} clips of {split.config.num_frames} frames of {size}")
        print(f"  at least 16 % moving pixels   {sum(clip.is_dynamic for clip in clips)} clips")
        print(f"  moving pixels                 mean {100 * dynamic_share:.1f} %")
        print(f"  still camera                  {len(clips) - len(moving_cameras)} clips")
        print(
            f"  rotation to frame 0           median {statistics.median(clip.rotation for clip in clips):.1f} degrees"
        )
        print(f"  smallest overlap with frame 0 {min(overlap):.2f} to {max(overlap):.2f} (moving cameras)")
        print(f"  field of view                 {min(angles):.0f} to {max(angles):.0f} degrees")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
