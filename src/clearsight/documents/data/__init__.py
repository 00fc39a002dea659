"""Label files: `MLTable`, JSON lines, and where the images lie."""
