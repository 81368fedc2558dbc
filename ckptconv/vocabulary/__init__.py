"""What fairseq makes ids with, and what HF makes of it: dict.txt, sentencepiece models, tokenizer.json. No torch."""
