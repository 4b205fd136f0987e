"""One pass of the model for a micro-batch, in threads of its own."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from defenses.vocabulary import Case, Query
from models.bundle import Bundle, Outputs


class Inference:
    """Turn queries into a case: logits, features and embedding from one pass, and the honest scores (softmax).

    With `logits_only`, where no defence looks at the others, features and embedding are (n, 0).
    """

    def __init__(self, bundle: Bundle, *, workers: int) -> None:
        self._bundle = bundle
        self._threads = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="inference")

    async def __call__(self, queries: tuple[Query, ...], *, logits_only: bool) -> Case:
        """Run the model once for all queries."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._infer, queries, logits_only)

    def close(self) -> None:
        """Let the threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _infer(self, queries: tuple[Query, ...], logits_only: bool) -> Case:  # noqa: FBT001, executors pass no keywords
        pixels = np.stack([query.pixels for query in queries])
        nothing = np.zeros((len(queries), 0), np.float32)
        outputs = Outputs(self._bundle.logits(pixels), nothing, nothing) if logits_only else self._bundle.infer(pixels)
        exponents = np.exp(outputs.logits - outputs.logits.max(axis=1, keepdims=True))
        scores = exponents / exponents.sum(axis=1, keepdims=True)
        return Case(queries=queries, logits=outputs.logits, features=outputs.features, embedding=outputs.embedding, scores=scores)
