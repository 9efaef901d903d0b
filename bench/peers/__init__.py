"""Triptych beside llama.cpp and vLLM: same weights, prompts, machine and run.

Servers take turns, one at a time; only ratios of neighbouring runs are compared.
"""
