"""A model service as the backbone's users have them: an unsupervised land-cover segmentation behind HTTP."""
