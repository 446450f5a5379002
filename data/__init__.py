"""What lies on disk: slides, tile and feature stores, expression, cohort tables, manifests."""
