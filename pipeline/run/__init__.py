"""The runner: what is done is skipped, the rest runs in this process or in several, and is recorded."""
