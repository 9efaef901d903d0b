"""The gRPC side of the model service."""
