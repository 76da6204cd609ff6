"""T2I-CompBench's rules and scorers, one module each; `milr.rewards.compbench.reward` combines them by category."""
