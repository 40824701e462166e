"""Patch 004: encoders give the vectors and scores that sentence-transformers and transformers give.

Four things are wrong upstream in what it loads by itself (BERT and XLM-RoBERTa): the tokenizer is taken apart, so that
the padding which `tokenizer.json` asks for is attended to as text; dropout stays on; BERT's positions are counted as
RoBERTa's are, from one past the padding's id; and the pooling that the model's folder asks for is not looked at.

`encoder` has the shims, `pipeline` reads what a folder says of its model, `tokenizer` and `pooling` do it.
"""
