"""The command line of recon4d."""

from recon4d.cli.main import main

__all__ = ["main"]
