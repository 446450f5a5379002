"""The viewer: a page in the browser on a workspace, served to this machine alone, which writes nothing."""
