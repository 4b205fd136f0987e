"""The policies in force: which one answers which query. One assignment replaces them."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from app.policies.candidate import Candidate, RememberedLookups, RepeatedLookups, as_store
from app.policies.reloadable import differences, with_values
from app.profiles import ProfileName
from app.settings import Settings, SettingsError
from defenses.calibration import CalibrationError
from defenses.ending_tasks import end
from defenses.stores.protocol import QueryStore
from defenses.vocabulary import Case, Mode, Query, Step

LEAVES_A_TRACE = ("evidence", "audit")  # what nobody was told must not be remembered

log = logging.getLogger(__name__)


class Build(Protocol):
    """Make the steps under settings; `lookups` is the store as a lookup sees it. Raises CalibrationError."""

    def __call__(self, settings: Settings, *, lookups: QueryStore) -> Mapping[str, Step]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """One way to answer: settings, and the steps made of them."""

    settings: Settings
    steps: tuple[tuple[str, Step], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Which policy answers which queries of a micro-batch (their rows), and which candidate is tried on those of the live one."""

    live: Policy
    parts: tuple[tuple[Policy, Sequence[int]], ...]
    candidate: Candidate | None

    @property
    def logits_only(self) -> bool:
        """Whether no defence looks at features or embedding."""
        asked = [policy.settings for policy, _ in self.parts]
        asked += [self.candidate.settings] if self.candidate else []
        return all(settings.ood.mode is settings.near_duplicates.mode is Mode.OFF for settings in asked)


@dataclass(frozen=True, slots=True, eq=False)
class InForce:
    """What counts from now on: the newest version, the live policy and its version (0: as started), and a candidate."""

    version: int
    live_version: int
    live: Policy
    candidate: Candidate | None


class Policies:
    """The live policy for everyone, a profile for each account that has one, and a candidate on trial.

    An account's profile counts as a whole: no setting of the command line or of the policy changes it. Where it can't be built, because
    the bundle was not calibrated for it, the live policy answers.
    """

    def __init__(
        self, started: Settings, *, build: Build, store: QueryStore, profile_of: Callable[[str], str | None] = lambda _: None,
        observe: Callable[[Mapping[str, int]], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self.started, self._build, self._store, self._profile_of, self._observe = started, build, store, profile_of, observe
        self._remembered, self._repeated = as_store(RememberedLookups(store)), as_store(RepeatedLookups())
        self._by_profile: dict[str, Policy | None] = {}
        self._trials: set[asyncio.Task[None]] = set()
        self.in_force = InForce(0, 0, self.policy(started), None)

    def policy(self, settings: Settings) -> Policy:
        """Build a policy for everyone. Raises CalibrationError."""
        return Policy(settings, tuple(self._build(settings, lookups=self._remembered).items()))

    def candidate(self, settings: Settings, *, version: int) -> Candidate:
        """Build a policy to be tried. Raises CalibrationError."""
        steps = self._build(settings, lookups=self._repeated)
        return Candidate(version, settings, tuple(step for name, step in steps.items() if name not in LEAVES_A_TRACE))

    def plan(self, queries: Sequence[Query]) -> Plan:
        """Who answers what, as it is at this moment."""
        now = self.in_force
        parts: dict[Policy, list[int]] = {}
        for row, query in enumerate(queries):
            profile = self._profile_of(query.client)
            policy = (self._of_profile(profile) if profile else None) or now.live
            parts.setdefault(policy, []).append(row)
        candidate = now.candidate if now.candidate and now.candidate.failure is None and now.live in parts else None
        return Plan(now.live, tuple(parts.items()), candidate)

    def compare(self, candidate: Candidate, inferred: Case, live: Case) -> None:
        """Try a candidate on what the live policy has answered."""
        task = asyncio.create_task(self._compare(candidate, inferred, live))
        self._trials.add(task)
        task.add_done_callback(self._trials.discard)

    async def close(self) -> None:
        """End what is being tried."""
        await end(self._trials)

    async def _compare(self, candidate: Candidate, inferred: Case, live: Case) -> None:
        await asyncio.sleep(0)  # the answers leave first
        self._observe(await candidate.compare(inferred, live))

    def _of_profile(self, profile: str) -> Policy | None:
        if profile not in self._by_profile:
            try:
                settings = with_values(self.started, profile=ProfileName(profile), values={})
                self._by_profile[profile] = Policy(settings, tuple(self._build(settings, lookups=self._store).items()))
            except (SettingsError, CalibrationError, ValueError) as error:
                log.error("accounts with profile %r are answered as everyone: %s", profile, error)
                self._by_profile[profile] = None
        return self._by_profile[profile]


def shown(candidate: Candidate | None, *, live: Settings) -> dict[str, Any] | None:
    """A candidate as operators see it: what it would change, and what that did to answers so far, on this server."""
    if candidate is None:
        return None
    outcomes = {name: candidate.outcomes[name] for name in ("same", "other_label", "other_scores")}
    return {
        "version": candidate.version,
        "profile": candidate.settings.profile,
        "change": differences(live, candidate.settings),
        "answers": outcomes,
        "failure": candidate.failure,
    }
