"""`recon4d models`: the models that can be created by name."""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class ModelsCommand:
    """List the models: number of parameters, source of the weights, backbone, license of third-party weights."""

    interrupted: ClassVar[str] = "interrupted"

    def run(self) -> None:
        """Print the table of models, and which are recommended."""
        from recon4d.zoo import RECOMMENDED, list_models, model_entry

        rows = [("name", "parameters", "weights", "backbone", "license of third-party weights")]
        for name in list_models():
            entry = model_entry(name)
            weights = "untrained" if entry.weights_file is None else "included"
            if entry.published is not None:
                weights = f"download from {entry.published.repository}"
            millions = f"{entry.num_parameters() / 1e6:.1f} M"
            rows.append((name, millions, weights, entry.backbone, entry.backbone_license))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        print("\nrecommended:")
        for purpose, name in RECOMMENDED.items():
            print(f"  {name.ljust(widths[0])}  {purpose}")
