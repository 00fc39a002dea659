"""How a package runs best on this machine, and whether a precision below float32 may serve it."""
