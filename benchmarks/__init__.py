"""Speed and memory, measured by hand and never as timed tests: ``python -m benchmarks.NAME --help``."""
