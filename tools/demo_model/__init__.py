"""The parts of `tools.train_demo_model`: corpus, tokenizer, model, optimiser, export."""
