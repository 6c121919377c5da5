"""One file a scheme, ending in SCHEME. Torch is imported when a tensor comes in, no sooner."""
