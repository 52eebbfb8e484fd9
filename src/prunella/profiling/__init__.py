"""Cost of a model: latency, memory, energy, operations, size on disk."""
