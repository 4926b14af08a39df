"""Readers: one file a format, each turns bytes into Arrow batches and says which rows it could not take."""
