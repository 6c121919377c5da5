"""Names and shapes of real public models, headers only."""
