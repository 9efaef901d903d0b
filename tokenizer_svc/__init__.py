"""Text to ids: renders chats and encodes text in a pool of worker processes."""
