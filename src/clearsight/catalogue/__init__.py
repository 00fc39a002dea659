"""What there is, as torch-free rows: models and what documents must know about them."""
