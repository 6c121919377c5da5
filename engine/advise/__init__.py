"""A machine, a model and a goal in, ranked setups with their reasons out. Reads headers only."""
