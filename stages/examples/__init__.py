"""example_slides: heatmaps of a few test slides of a model, chosen by a rule, for its report."""
