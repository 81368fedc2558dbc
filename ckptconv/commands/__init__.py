"""The commands as functions: take paths, return frozen dataclasses, never print."""
