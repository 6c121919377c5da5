"""One file for each kind of adapter, ending in ADAPTER."""
