"""Defences against cloning: numbers in, decisions out. They know neither the service, nor recognizers, nor the network."""
