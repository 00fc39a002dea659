"""Clearsight: training, export, serving and explanation of image models on your own machines."""
