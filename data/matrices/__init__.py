"""Matrices: tables of numbers as programs write them, their names, orientation, units and odd values."""
