"""A model service like those of the backbone's users: an unsupervised land-cover segmentation behind HTTP."""

SEGMENT_PATH = "/v1/landcover/segment"
LEGEND_PATH = "/v1/landcover/legend"
