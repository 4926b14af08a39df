"""Numbers from embeddings: pure functions on float32 arrays, deterministic given their seed."""
