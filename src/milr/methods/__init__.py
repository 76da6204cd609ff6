"""Other ways to spend the same budget of drawings, with the signature of `milr.search`."""
