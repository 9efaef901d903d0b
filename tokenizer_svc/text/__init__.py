"""Text to ids: where a text may be cut, how long it can be, bad words."""
