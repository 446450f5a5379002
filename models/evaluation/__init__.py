"""Evaluation: metrics of predictions, their intervals, and tests between methods."""
