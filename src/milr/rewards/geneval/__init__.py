"""GenEval's scorer: detector, colours, rules."""
