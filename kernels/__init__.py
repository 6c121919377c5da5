"""Tensors in, tensors out: the public ops and who runs them."""
