"""One file a scheme, each ending in SCHEME. Torch is imported when a tensor comes in, not before."""
