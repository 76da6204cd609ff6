"""Commands, one file each; `milr.cli.main` registers them, one line each."""
