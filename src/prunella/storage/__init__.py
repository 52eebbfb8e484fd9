"""Files: local and remote paths, a cache of remote files, uploads in the background."""
