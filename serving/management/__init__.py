"""Endpoints and deployments: the store, the operations behind the verbs, and the control socket."""
