"""What every service stands on. Knows nothing of models, tokens or text."""
