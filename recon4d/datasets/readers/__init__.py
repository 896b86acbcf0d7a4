"""Readers of data sets on disk, one module per data set."""
