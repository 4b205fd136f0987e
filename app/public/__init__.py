"""The public port: what clients may ask."""
