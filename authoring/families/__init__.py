"""One file a family of workflows; each ends in WORKFLOWS, a function that makes them all."""
