"""`prunella init`: from a checkpoint, images and a GPU to a parameter file."""
