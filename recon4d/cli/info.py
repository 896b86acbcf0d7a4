"""`recon4d info`: what a reconstruction contains, and problems that its statistics indicate."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import tyro

from recon4d.runs.scene_report import describe_scene, find_all_problems, measure


@dataclass(frozen=True)
class InfoCommand:
    """Describe what a scene.npz contains and report possible problems."""

    scene: tyro.conf.Positional[Path]
    """A scene.npz, or the folder that contains one."""

    interrupted: ClassVar[str] = "interrupted"

    def run(self) -> None:
        """Print the description and the possible problems.

        Raises:
            UserError: If the scene cannot be read.
        """
        measured = measure(self.scene)
        for line in describe_scene(measured):
            print(line)
        problems = find_all_problems(measured)
        print("possible problems:" if problems else "no problems found")
        for problem in problems:
            print(f"  - {problem}")
