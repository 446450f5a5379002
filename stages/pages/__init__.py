"""Templates, charts and number formats of the HTML pages of all stages."""
