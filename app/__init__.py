"""The prediction service: the only package that knows the defences and the recognizers."""

__version__ = "0.4.0"
