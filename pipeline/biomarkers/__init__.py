"""What is done for each biomarker: training, comparing methods, asking features."""
