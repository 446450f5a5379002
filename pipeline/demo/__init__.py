"""The demo: a small cohort made on the spot, and the whole chain on it."""
