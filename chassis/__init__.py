"""Foundation of every service; independent of tokens and text."""
