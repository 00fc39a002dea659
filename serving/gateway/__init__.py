"""The data plane: authentication, traffic split, limits, time-outs and status mapping in front of TorchServe.

One process, started by the supervisor as `python -m clearsight.serving.gateway`. It imports the core only and never
torch. `table.py` is its input, `dataplane.py` makes the decisions, the other files are what these need.
"""
