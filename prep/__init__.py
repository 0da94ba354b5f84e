"""How raw footage becomes shards."""
