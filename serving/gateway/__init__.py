"""The data plane: authentication, traffic split, limits, time-outs and status mapping in front of TorchServe.

One process, started by the supervisor as `python -m clearsight.serving.gateway`. It imports the core only and never
torch. `table.py` is what it is driven by, `dataplane.py` holds the decisions, the other files are their parts.
"""
