"""One backend a file, found by name."""
