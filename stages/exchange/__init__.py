"""exchange: takes over and hands on other programs' tiles, features and models."""
