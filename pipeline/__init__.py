"""Command line, Python API, configuration, runner, console and demo."""
