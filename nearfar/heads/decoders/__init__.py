"""Decoders: from features, or from noise, back to data."""
