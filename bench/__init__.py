"""Benchmarks of the repository's own; their recorded results lie in `bench/results`."""
