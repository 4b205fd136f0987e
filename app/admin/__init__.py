"""The admin port: what operators read. None of it exists on the public port."""
