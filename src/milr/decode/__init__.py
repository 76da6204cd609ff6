"""The decoding engine: key-value cache, masks and positions, random streams."""
