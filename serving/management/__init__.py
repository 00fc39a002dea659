"""Endpoints and deployments: what is stored, what the verbs decide, and the socket on which they are heard."""
