"""Open a checkpoint by its magic bytes; write one."""
