"""A model service like those of the backbone's users: an unsupervised land-cover segmentation behind HTTP."""
