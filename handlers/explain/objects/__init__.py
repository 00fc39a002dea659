"""Explanations of what a detector found: which places of the image one box, or its mask, hangs on.

serving backend --> boxes, in order --> choice: which are explained
eager copy --> network: candidates of one view, differentiable --> match: the candidate that a box came from
gradients --> heat: a map of the image --> explainer: image, numbers, details

serving backend --> covering: what it finds in covered images --> d_rise: a map of the image --> explainer
"""
