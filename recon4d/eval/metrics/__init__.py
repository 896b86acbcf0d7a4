"""Metrics: one module per quantity, each a function of a predicted and a true scene."""
