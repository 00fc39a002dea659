"""Explanations of a detector's answer: which locations of the image one box, or its mask, depends on.

serving backend --> boxes, in order --> selection: which are explained
odam: eager copy --> network: candidates of one view, differentiable --> selection: the candidate of each box
      gradients --> heat: a map of the image --> explainer: image, numbers, details
d_rise: serving backend --> masking: detections in masked images --> d_rise: a map of the image --> explainer
"""
