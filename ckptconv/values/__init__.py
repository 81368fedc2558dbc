"""What tensors hold: statistics, and comparisons value by value."""
