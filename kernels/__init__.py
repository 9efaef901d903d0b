"""The operations a model is made of, and their implementations for each kind of device."""
