"""One quantization scheme a file, found by name."""
