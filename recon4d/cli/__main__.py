"""Lets `python -m recon4d.cli` run the command `recon4d`."""

import sys

from recon4d.cli.main import main

sys.exit(main())
