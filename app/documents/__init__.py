"""Small JSON documents that all replicas share, each with all its versions: the policy, and the accounts."""

from app.documents.files import FileDocuments
from app.documents.protocol import BrokenError, ConflictError, Document, Documents, DocumentsError, watch
from app.settings import Settings
from defenses.stores.redis_url import REDIS_URLS

__all__ = ["BrokenError", "ConflictError", "Document", "Documents", "DocumentsError", "open_documents", "watch"]


def open_documents(settings: Settings) -> Documents:
    """Where the store is, so that replicas with one store have one policy: in Redis, else in files under STATE/documents."""
    url = settings.store_url()
    if url.startswith(REDIS_URLS):
        from app.documents.shared import RedisDocuments  # noqa: PLC0415, a service without Redis doesn't load its driver

        return RedisDocuments(url)
    return FileDocuments(settings.state / "documents")
