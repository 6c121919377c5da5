"""One model family a file, found by name."""
