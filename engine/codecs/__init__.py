"""One codec a file: what other tools store, as numbers."""
