"""Programs that measure; each says what, on what, and how."""
