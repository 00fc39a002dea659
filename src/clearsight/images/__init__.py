"""Images: reading the headers of image files, and decoding them to RGB pixels within limits."""
