"""Explanations: which pixels of an image a score depends on.

Folders, each importing only those above it:

* here: what a request asks (`parameters`), what a deployment decides (`options`), the time limit (`deadline`), progress
  and cost of a request (`telemetry`). No torch. Properties of algorithms and keys: `clearsight.catalogue.algorithms`
* `network/`: the eager copy of a classifier: `model` (derivatives and recorded features), `preparation` (changes made
  to the copy), `activations` (guided rectifiers), `functions` (what algorithms call, in chunks), `precision` (bfloat16)
* `algorithms/`: `table` (names, and running one), `context` (input and output), `integrated_gradients_family`,
  `cam_family`, `rise`, `captum_engine`; the quadrature stands in `integrated_gradients`, regions in `xrai/`
* `objects/`: explanations of detectors: `explainer`, `network` (eager copy), `selection`, `masking` and `d_rise`
* `answering/`: requests to answers: `scoring` (all rows of a request), `request` and `targets` (what a cell asks),
  `explainer` (one image of a classifier), `quality` (faithfulness), `numbers` (attributions as JSON), `cache`

The image of an explanation is drawn by `clearsight.handlers.drawing.explanation_image`.
"""
