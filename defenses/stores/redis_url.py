"""What a URL of Redis looks like, for all who connect to it."""

from typing import Final

REDIS_URLS: Final = ("redis://", "rediss://", "unix://")
# Said instead of the URL itself, which may carry a password.
NOT_A_REDIS_URL: Final = "not a Redis URL: redis://[[USER]:PASSWORD@]HOST[:PORT][/DB], rediss://... or unix://PATH"
