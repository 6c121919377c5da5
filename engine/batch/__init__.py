"""Many conversions from one file: recipes in, a plan of all, then every file or a reason."""
