"""From run folders to numbers, tables, figures and one page: `milr compare`, `milr report` and `milr ablate`."""
