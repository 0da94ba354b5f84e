"""Training of every network of this project, from shards."""
