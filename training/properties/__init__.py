"""Properties of the embedded model: one module for each group of rows of the table that `training.report` measures."""
