"""Operations measured, each at one shape, and the ways to compute it."""
