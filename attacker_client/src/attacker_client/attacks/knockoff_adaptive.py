"""Knockoff nets, the adaptive policy: a bandit learns which of the pool's classes are worth asking about."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from attacker_client.attacks.attack import Scene
from attacker_client.attacks.clusters import clusters_of
from attacker_client.attacks.rewards import Rewards
from attacker_client.attacks.standard import buy_rows
from attacker_client.students import Student
from attacker_client.transfer_set import TransferSet


@dataclass(frozen=True, slots=True)
class KnockoffAdaptive:
    """Draw images from actions z, the pool's classes, by a policy that is learned from the answers (Orekondy, Schiele and Fritz 2019).

    pi(z) = exp H(z) / sum exp H; after each batch of `batch` images, with r_z the mean reward of the action's images in it and r' the mean
    reward of the last `window` images, for each action z drawn:
    H(z) += alpha (r_z - r') (1 - pi(z)) and H(y) -= alpha (r_z - r') pi(y) for all others y, alpha = `step` / N(z), N(z) the batches that
    drew z so far. The paper updates after each image; a mean over a batch is steadier and lets queries run at the same time.
    The rewards (see `Rewards`) are certainty, diversity and loss; the student that loss asks is fitted anew in `rounds` equal rounds.

    Where the thief doesn't know the pool's classes, the actions are `clusters` groups of images that look alike, among at most
    `candidates` of the pool (more if the budget needs them). An action that has run out of images is no longer drawn.
    """

    summary: ClassVar[str] = "knockoff nets, adaptive policy: a bandit over the pool's classes or clusters"
    rounds: int = 10
    batch: int = 64
    step: float = 4.0
    window: int = 500
    clusters: int = 50
    candidates: int = 20_000

    def __post_init__(self) -> None:
        if min(self.rounds, self.batch, self.window, self.clusters, self.candidates) < 1 or self.step <= 0:
            raise ValueError("rounds, batch, window, clusters and candidates are at least 1, and the step is above 0")

    async def __call__(self, scene: Scene) -> Student:
        """Fit after each round but the last, going on from the student before; then once from fresh weights."""
        rng = np.random.default_rng((scene.seed, 7))
        policy = Policy(self._actions(scene, rng), step=self.step)
        rewards = Rewards(window=self.window)
        bought = TransferSet.empty(scene.pool.size)
        student: Student | None = None
        for number in range(self.rounds):
            share = -(-scene.buyer.left // (self.rounds - number))
            if len(bought) and share:
                student = await scene.trainer.fit(bought, start=student)
            while share > 0 and len(rows := policy.draw(min(self.batch, share), rng)):
                batch = await buy_rows(scene, rows)
                if not len(batch):
                    break
                answered = batch.weights > 0
                if answered.any():
                    policy.learn(rows[: len(batch)][answered], *rewards.of(batch.rows(answered), student))
                bought = TransferSet.joined([bought, batch])
                share -= len(rows)
        best = np.argsort(-policy.probabilities, kind="stable")[:10]
        scene.findings["actions"] = "classes of the pool" if scene.pool.classes is not None else "clusters of the pool"
        scene.findings["policy"] = [[int(action), round(float(policy.probabilities[action]), 4)] for action in best]
        scene.findings["rewards"] = rewards.kinds
        if rewards.left_out:
            scene.findings["rewards left out"] = rewards.left_out
        return await scene.trainer.fit(bought)

    def _actions(self, scene: Scene, rng: np.random.Generator) -> list[NDArray[np.int64]]:
        """The rows of each action, in the order they will be taken."""
        rows = rng.permutation(len(scene.pool))
        classes = scene.pool.classes
        if classes is None:
            rows = rows[: max(self.candidates, 2 * scene.buyer.left)]
            groups = clusters_of(scene.pool, rows, clusters=self.clusters, rng=rng)
        else:
            groups = classes[rows]
        return [rows[groups == group] for group in range(int(groups.max()) + 1)]


class Policy:
    """A gradient bandit over actions, each with rows (n,) that are drawn without replacement."""

    def __init__(self, rows: list[NDArray[np.int64]], *, step: float) -> None:
        self._rows = rows
        self._step = step
        self._action_of = {int(row): action for action, each in enumerate(rows) for row in each}
        self._taken = np.zeros(len(rows), np.int64)
        self._preferences = np.zeros(len(rows))
        self._updates = np.zeros(len(rows), np.int64)

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """pi (actions,), before actions that have run out are left out."""
        odds = np.exp(self._preferences - self._preferences.max())
        return np.asarray(odds / odds.sum())

    def draw(self, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Rows of n images, or of all that are left: an action by the policy for each, and its next row."""
        drawn: list[int] = []
        sizes = np.array([len(rows) for rows in self._rows])
        policy = self.probabilities
        for _ in range(n):
            odds = np.where(self._taken < sizes, policy, 0)
            if not odds.sum():
                break
            action = int(rng.choice(len(odds), p=odds / odds.sum()))
            drawn.append(int(self._rows[action][self._taken[action]]))
            self._taken[action] += 1
        return np.array(drawn, np.int64)

    def learn(self, rows: NDArray[np.int64], rewards: NDArray[np.float64], usual: float) -> None:
        """Update by the rewards (n,) of drawn rows (n,), measured against what is usual."""
        actions = np.array([self._action_of[int(row)] for row in rows])
        policy = self.probabilities
        for action in np.unique(actions):
            self._updates[action] += 1
            advantage = float(rewards[actions == action].mean()) - usual
            towards = (np.arange(len(policy)) == action) - policy
            self._preferences += self._step / self._updates[action] * advantage * towards
