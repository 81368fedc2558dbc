"""What a checkpoint is held against, what doesn't fit, why, and whether that is expected."""
