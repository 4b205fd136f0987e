"""Recognizers as clone detection asks them: a bundle here, an endpoint over HTTP, any function; with what they said kept on disk."""

from app.recognizers.alone import alone_in
from app.recognizers.asked import Asked, Classes, RecognizerError, Source, Told

__all__ = ["Asked", "Classes", "RecognizerError", "Source", "Told", "alone_in"]
