"""Cohort tables: slides, patients, labels, and the splits of patients."""
