"""What is done with a model after training: decoding, editing, drawing anew."""
