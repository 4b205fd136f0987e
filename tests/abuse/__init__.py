"""Hostile input and load against a real server. `make test` runs a short form of each; CLONEGUARD_ABUSE=full the whole one."""

import os

FULL = os.environ.get("CLONEGUARD_ABUSE") == "full"
