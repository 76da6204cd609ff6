"""The decoding engine: batches, KV cache, masks and positions, sampling and its random streams."""
