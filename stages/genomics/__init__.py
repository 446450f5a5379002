"""genomics: reads expression matrices."""
