"""extract: turns tiles into feature vectors."""
