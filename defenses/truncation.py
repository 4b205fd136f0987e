"""Output truncation: tell the best few classes, with few digits, or labels only. Alone it slows a thief, it never stops one."""

from dataclasses import replace

import numpy as np

from defenses.vocabulary import Answer, Case, Finding, Mode


class OutputTruncation:
    """Turn scores into the answer: always the same number of entries, best first.

    `top_k` entries are told, with scores rounded to `decimals` digits (None: all digits), or without scores. In any mode but enforce
    every class is told with its full score.
    """

    def __init__(self, *, mode: Mode, top_k: int, decimals: int | None, labels_only: bool) -> None:
        self._mode, self._top_k, self._decimals, self._labels_only = mode, top_k, decimals, labels_only

    async def __call__(self, case: Case) -> Case:
        """Set the case's answer. The last step, after every path, so that no answer is fuller than another."""
        order = np.argsort(-case.scores, axis=1, kind="stable")
        scores = np.take_along_axis(case.scores, order, axis=1).astype(np.float64)
        enforced = self._mode is Mode.ENFORCE
        if self._mode is Mode.SHADOW:
            everyone = np.ones(len(order), dtype=np.bool_)
            withheld = np.full(len(order), max(0, order.shape[1] - self._top_k), dtype=np.float32)
            finding = Finding(flagged=everyone, score=withheld, label=("",) * len(order), doubtful=everyone, enforced=False)
            case = case.with_finding("truncation", finding)
        if not enforced:
            return replace(case, answer=Answer(order, scores))
        told = order[:, : self._top_k]
        if self._labels_only:
            return replace(case, answer=Answer(told, None))
        kept = scores[:, : self._top_k]
        return replace(case, answer=Answer(told, kept if self._decimals is None else kept.round(self._decimals)))
