"""A budget and a plan in, where each layer lives out."""
