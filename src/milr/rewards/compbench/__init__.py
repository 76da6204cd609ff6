"""T2I-CompBench's rules and scorers, a module each; `milr.rewards.compbench.reward` puts them together by category."""
