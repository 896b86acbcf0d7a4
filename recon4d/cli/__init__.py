"""The command line of recon4d: one module for each command."""

from recon4d.cli.main import main

__all__ = ["main"]
