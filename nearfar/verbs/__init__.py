"""What a user can do: one file a verb, for the command line and for Python alike."""
