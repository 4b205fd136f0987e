"""After the fact: is that recognizer a clone of ours? Two recognizers in, features and a verdict with a stated error rate out."""
