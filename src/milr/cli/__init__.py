"""Commands with a file of their own; `milr.cli.main` registers them, a line each."""
