"""One benchmark a file, found by folder discovery."""
