"""Accounts: named clients, the keys that prove who they are, and what is different for each of them."""

from app.accounts.book import Account, AccountError, Book, Change, Key
from app.accounts.live import Accounts

__all__ = ["Account", "AccountError", "Accounts", "Book", "Change", "Key"]
