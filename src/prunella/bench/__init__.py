"""Benchmarks of Prunella itself and the experiments behind the docs."""
