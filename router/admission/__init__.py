"""The admission queue, and forecasts of when a request can run."""
