"""XRAI: attribution by regions of the image (Kapishnikov et al., arXiv 1906.02825).

    label_maps = segment(x)                      # once per image
    regions = Regions.of(label_maps)             # once per image
    map_PP = xrai_map(base_map_PP, regions, fast=True)   # once per label

Masks and values are those of PAIR-code's `saliency` 0.2.1, given the same base map.
"""

from clearsight.handlers.explain.algorithms.xrai.ranking import xrai_map
from clearsight.handlers.explain.algorithms.xrai.regions import Regions
from clearsight.handlers.explain.algorithms.xrai.segmentation import segment

__all__ = ["Regions", "segment", "xrai_map"]
