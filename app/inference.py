"""One pass of the model for a micro-batch, in threads of its own."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from defenses.vocabulary import Case, Query
from models.bundle import Bundle


class Inference:
    """Turn queries into a case: logits, features and embedding from one pass, and the honest scores (softmax)."""

    def __init__(self, bundle: Bundle, *, workers: int) -> None:
        self._bundle = bundle
        self._threads = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="inference")

    async def __call__(self, queries: tuple[Query, ...]) -> Case:
        """Run the model once for all queries."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._infer, queries)

    def close(self) -> None:
        """Let the threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _infer(self, queries: tuple[Query, ...]) -> Case:
        outputs = self._bundle.infer(np.stack([query.pixels for query in queries]))
        exponents = np.exp(outputs.logits - outputs.logits.max(axis=1, keepdims=True))
        scores = exponents / exponents.sum(axis=1, keepdims=True)
        return Case(queries=queries, logits=outputs.logits, features=outputs.features, embedding=outputs.embedding, scores=scores)
