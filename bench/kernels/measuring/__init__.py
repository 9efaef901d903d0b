"""The process that measures, and its client."""
