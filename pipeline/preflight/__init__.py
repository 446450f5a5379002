"""``wsipipe check``: what is wrong with settings, tables and slides, or will be, said before days of work."""
