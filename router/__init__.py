"""The public API: validates, queues, and carries each request through the other services."""
