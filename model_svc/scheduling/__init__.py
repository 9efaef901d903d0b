"""Decides what runs in each step. Pure: no torch, no grpc, no clock."""
