"""Pictures: alone, in parts, as video, and what does not belong among them."""
