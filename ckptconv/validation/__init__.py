"""What can be known of a checkpoint before training: each check yields findings with a stable code."""
