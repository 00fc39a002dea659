"""Faster R-CNN, Mask R-CNN and RetinaNet on torchvision: images come placed and normalised, thresholds stay outside.

torchvision gives the layers, the losses and the published weights. Its own resizing and normalising are left out, so
that training, evaluation and serving share one preprocessing; and thresholds are arguments of a call, never constants.
"""
