"""The command line: the only reader of the user's arguments."""
