"""The parts of the paper's MixedReward."""
