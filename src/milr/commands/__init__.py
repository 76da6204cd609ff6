"""Commands with a file of their own; `milr.cli` registers them, a line each."""
