"""The pipeline in plain Python: a checkpoint in, a plan, a smaller checkpoint out."""
