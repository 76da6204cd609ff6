"""T2I-CompBench's rules and scorers, a module each; `milr.rewards.t2i_compbench` puts them together by category."""
