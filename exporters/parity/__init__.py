"""Whether exported graphs compute what the network computes."""
