"""compare: trains several methods on the same splits and holds them against each other."""
