"""The evidence step: who was told a watermarked answer is remembered, so that a clone can be traced to the account that paid for it."""

import numpy as np

from defenses.evidence.writer import EvidenceWriter, Marked
from defenses.relabelling import Relabelling
from defenses.vocabulary import Case
from defenses.watermark import Watermark


class RememberWatermarks:
    """Hand every watermarked answer that leaves to the vault's writer (DAWN: Szyller et al. 2021).

    Founders and those who joined are remembered alike: each client that was told a keyed wrong label has it in its list. An answer of a
    marked neighbourhood that another reason altered too was told the same label, and counts.
    """

    def __init__(self, writer: EvidenceWriter, *, watermark: Watermark, relabelling: Relabelling, model: str) -> None:
        self._writer, self._watermark, self._relabelling, self._model = writer, watermark, relabelling, model

    async def __call__(self, case: Case) -> Case:
        """Look at the answers as they are told; nothing waits for a disk."""
        assert case.answer is not None, "what is told is known after truncation"
        marked = case.findings.get("watermark")
        if marked is not None and marked.enforced and marked.flagged.any():
            neighbourhoods = case.neighbourhoods or case.founded()
            for row in np.flatnonzero(marked.flagged).tolist():
                told = int(case.answer.class_ids[row, 0])
                self._writer.remember(
                    Marked(
                        case.queries[row],
                        neighbourhoods[row],
                        told,
                        case.logits.shape[1],
                        self._relabelling,
                        self._watermark.rate,
                        self._model,
                    )
                )
        return case
