"""Operations on every token by itself."""
