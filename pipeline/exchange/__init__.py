"""Files of other programs: commands that write and read them."""
