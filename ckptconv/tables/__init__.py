"""The table language: parse, lint, expand, fit. Sees keys and shapes, never a file's bytes."""
