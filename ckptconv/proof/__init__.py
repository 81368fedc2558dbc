"""A conversion proved by its table: every parameter of the output against the one that it must have been made of.

Nothing of the planning or the writing is used: the table says where a parameter lies on either side, and both are read.
"""
