"""Scripts that make the small model `notes`: data generator, tokenizer, training, export, evaluation."""
