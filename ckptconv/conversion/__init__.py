"""The rooms of `convert`: what lies beside the weights, facts about values, sizes, casting, writing."""
