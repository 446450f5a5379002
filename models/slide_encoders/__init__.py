"""Slide encoders: networks that make one vector of the features of a slide's tiles."""
