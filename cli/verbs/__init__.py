"""One verb a file, found by name, each ending in VERB."""
