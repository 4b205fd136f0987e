"""Which neighbourhoods carry the watermark (DAWN: Szyller, Atli, Marchal, Asokan 2021)."""

from defenses.keyed import client_key, purpose_key, share
from defenses.vocabulary import Neighbourhood


class Watermark:
    """Mark a neighbourhood if HMAC(client key of its founder, its id) < `rate` * 2^64; `rate` is a share in 0..1.

    DAWN's mapping that small perturbations don't move is the neighbourhood here: whoever asks about the picture again, changed a little or
    from another account, meets the same decision. Who founded it decides once and for all: two clients' marks are independent, and
    one client's key shows his marks without showing another's.
    """

    def __init__(self, *, secret: bytes, model: str, rate: float) -> None:
        self.rate = rate
        self._key = purpose_key(secret, "watermark", model)

    def marks(self, neighbourhood: Neighbourhood) -> bool:
        """Whether answers of this neighbourhood are altered and remembered."""
        return self.chooses(neighbourhood.id, founder=neighbourhood.founder)

    def chooses(self, neighbourhood: bytes, *, founder: str) -> bool:
        """The same for a neighbourhood's id."""
        return share(client_key(self._key, founder), neighbourhood) < self.rate
