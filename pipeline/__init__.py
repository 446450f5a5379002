"""What drives the stages: command line, configuration, workspace, runner, console, demo."""
