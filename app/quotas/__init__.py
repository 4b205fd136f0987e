"""Quotas: how many queries a client may ask, and all clients together."""

from app.quotas.limits import Limits
from app.quotas.quotas import Charge, Quotas, open_quotas

__all__ = ["Charge", "Limits", "Quotas", "open_quotas"]
