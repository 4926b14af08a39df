"""What is done with a language model after training: decoding, editing."""
