"""Evaluation protocols of published benchmarks."""
