"""One Triton kernel a file; read them by `operators.py`, which is imported when a call needs it."""
