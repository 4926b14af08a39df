"""Spaces that steer what is generated, or that generation makes."""
