"""The icon world: a detector of icons and the rewards that read it."""
