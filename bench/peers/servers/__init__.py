"""The servers that are compared: built, converted for, and started."""
