"""Language models that are trained or decoded by contrast."""
