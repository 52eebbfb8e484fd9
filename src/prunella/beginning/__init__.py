"""From a checkpoint, pictures and a GPU to a parameter file: what `prunella init` works out."""
