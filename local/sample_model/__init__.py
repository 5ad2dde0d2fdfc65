"""A model service like those of the backbone's users: an unsupervised segmentation of photographs behind HTTP.

It groups pixels of like colour and texture. What a group shows, it does not know: the path is an example of a name.
"""

SEGMENT_PATH = "/v1/landcover/segment"
LEGEND_PATH = "/v1/landcover/legend"
