"""Backbones: networks that turn a tile into a feature vector, their weights and devices."""
