"""What a batch job writes: the file of results in one of several forms, failures, a summary, images beside it."""
