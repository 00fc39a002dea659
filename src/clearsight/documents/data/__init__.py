"""Label files: `MLTable`, JSON lines, and where the pictures lie."""
