"""From run folders to numbers, tables, figures and a page: `milr compare`, `milr report` and `milr ablate`."""
