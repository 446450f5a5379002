"""``wsipipe doctor``: checks of this machine and installation, each in a time limit. :mod:`.checks` lists them."""
