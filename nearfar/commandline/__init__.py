"""The command line: made of the verbs' signatures and docstrings, which are read, not imported."""
