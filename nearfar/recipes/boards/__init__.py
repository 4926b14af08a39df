"""Boards: whole families of methods compared on the same data, encoder, steps and seeds."""
