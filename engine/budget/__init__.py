"""A number of bytes in, the scheme of each layer that keeps the model's output nearest out."""
