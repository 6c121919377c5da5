"""The command `fusequant`: arguments in, one answer out."""
