"""What ``--help`` shows, and what the shell completes: words for values, groups of commands, an example each."""
