"""The scoring contract: what clients send and what they get."""
