"""The processes of `clearsight serve`: the gateway and one model server per deployment."""
