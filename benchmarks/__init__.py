"""Speed beside a peer, in one run: every figure is a ratio."""
