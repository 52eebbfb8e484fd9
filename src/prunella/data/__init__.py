"""Image-caption samples: sources, criteria, deduplication, aspect buckets, the manifest."""
