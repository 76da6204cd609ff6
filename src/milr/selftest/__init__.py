"""Everything that `milr doctor` runs."""
