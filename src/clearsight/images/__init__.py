"""Images: what a file says of itself, and its bytes turned into RGB pixels within limits."""
