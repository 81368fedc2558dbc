"""Translate words with an exported directory: plain transformers, as a user would, ckptconv not imported."""

from __future__ import annotations

import sys

from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, logging


def main(directory: str, sentences: list[str]) -> None:
    logging.disable_progress_bar()
    # The tokenizer needs no code of its own; without the flag, transformers 5 asks before it reads the model's config.
    tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=True)
    model = AutoModelForSeq2SeqLM.from_pretrained(directory, trust_remote_code=True).eval()
    output = model.generate(**tokenizer(sentences, padding=True, return_tensors="pt"))
    for source, target in zip(sentences, tokenizer.batch_decode(output, skip_special_tokens=True), strict=True):
        print(f"{source}  →  {target}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
