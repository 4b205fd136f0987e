"""How far a query lies from the images that the recognizer was made for."""
