"""The run on a GPU machine: models of full size from random numbers, core in process, results."""
