"""`recon4d models`: what there is to choose from."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelsCommand:
    """List the models there are, their size, their backbone and whose license weights of others come under."""

    def run(self) -> None:
        from recon4d.zoo import list_models, model_entry

        rows = [("name", "parameters", "weights", "backbone", "license of weights that are not ours")]
        for name in list_models():
            entry = model_entry(name)
            weights = "untrained" if entry.weights_file is None else "shipped"
            if entry.published is not None:
                weights = f"download from {entry.published.repository}"
            millions = f"{entry.num_parameters() / 1e6:.1f} M"
            rows.append((name, millions, weights, entry.backbone, entry.backbone_license))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
