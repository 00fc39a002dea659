"""Networks made ready for explanations: gradients, features, guided copies."""
