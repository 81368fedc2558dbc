"""Dataclasses → terminal text or JSON. Decides nothing about checkpoints; every text from a file passes `printable`."""
