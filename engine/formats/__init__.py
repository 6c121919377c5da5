"""One on-disk dialect a file, found by name."""
