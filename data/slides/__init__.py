"""Slides: finding them, opening them, reading their pixels."""
