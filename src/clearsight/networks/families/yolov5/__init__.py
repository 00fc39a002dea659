"""YOLOv5 written from the published shapes and papers: network, anchors, assignment, loss, decoding.

No code or weights of the AGPL original are used, and no permissively licensed weights exist for this graph: it trains
from scratch, or from a state dict the user brings on its own licence terms (its parameter names are the public ones).
"""
