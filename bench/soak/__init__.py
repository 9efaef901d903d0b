"""Mixed load with hostile inputs beside ordinary streams, for minutes to hours."""
