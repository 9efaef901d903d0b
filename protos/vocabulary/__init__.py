"""Reading of a checkpoint's tokenizer files."""
