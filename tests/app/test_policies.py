"""Policies change while queries are answered: validated first, one for each account's profile, tried before they count, and never lost."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.documents import ConflictError
from app.documents.files import FileDocuments
from app.policies import Change, InForce, Policies, PolicyChanges, shown
from app.policies.reloadable import RELOADABLE, differences, said, with_values
from app.profiles import PROFILES, ProfileName
from app.settings import Settings, SettingsError, read_settings
from defenses.calibration import CalibrationError
from defenses.misrecognition import IntentionalMisrecognition
from defenses.near_duplicates import NearDuplicateLookup
from defenses.relabelling import Alteration, Relabelling
from defenses.stores import open_store
from defenses.stores.protocol import QueryStore, StoreError
from defenses.truncation import OutputTruncation
from defenses.vocabulary import Case, Finding, Mode, Step
from defenses.watermark import Watermark
from tests.defenses.cases import case_of

pytestmark = pytest.mark.anyio


class FlagEverything:
    """A filter that finds everything foreign."""

    async def __call__(self, case: Case) -> Case:
        every = np.ones(len(case.queries), np.bool_)
        return case.with_finding("ood", Finding(every, every.astype(np.float32), ("",) * len(every), every, enforced=True))


class Broken:
    """A step with a bug."""

    async def __call__(self, case: Case) -> Case:
        raise RuntimeError(f"no step for {len(case.queries)}")


def ids(case: Case) -> NDArray[np.int64]:
    """The classes that a finished case tells."""
    assert case.answer is not None
    return case.answer.class_ids


def steps_under(settings: Settings, *, lookups: QueryStore) -> dict[str, Step]:
    """Steps as the service makes them, but for a filter that needs no calibration."""
    steps: dict[str, Step] = {}
    if settings.ood.scorer == "knn":
        raise CalibrationError("this bundle was not calibrated with knn")
    if settings.ood.scorer == "energy":
        steps["ood"] = Broken()
    elif settings.ood.mode is not Mode.OFF:
        steps["ood"] = FlagEverything()
    if settings.near_duplicates.mode is not Mode.OFF:
        steps["near_duplicates"] = NearDuplicateLookup(lookups, code=None, mode=settings.near_duplicates.mode)
    steps["misrecognition"] = IntentionalMisrecognition(
        secret=b"s" * 32, model="m", mode=settings.misrecognition.mode, rate=settings.misrecognition.rate,
        watermark_mode=Mode.OFF, watermark=Watermark(secret=b"s" * 32, model="m", rate=0),
        relabelling=Relabelling(secret=b"s" * 32, model="m", alteration=Alteration.WRONG_CLASS),
    )  # fmt: skip
    truncation = settings.truncation
    steps["truncation"] = OutputTruncation(
        mode=truncation.mode, top_k=truncation.top_k, decimals=truncation.decimals, labels_only=truncation.labels_only
    )
    steps |= {"evidence": FlagEverything(), "audit": FlagEverything()}  # any step would do: a candidate has none
    return steps


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[QueryStore]:
    """An embedded store."""
    opened = await open_store(f"sqlite:///{tmp_path}/q.db", index="m", audit_key=b"k" * 32)
    yield opened
    await opened.close()


class Replica:
    """One server's policies, over documents that it shares with others."""

    def __init__(self, folder: Path, store: QueryStore, started: Settings | None = None, **profiles: str) -> None:
        self.counted: list[Mapping[str, int]] = []
        self.events: list[dict[str, Any]] = []
        self.seen: asyncio.Queue[InForce] = asyncio.Queue()
        self.can_record = True
        self.policies = Policies(
            started or read_settings(profile="truncate"), build=steps_under, store=store, profile_of=profiles.get,
            observe=self.counted.append,
        )  # fmt: skip
        self.changes = PolicyChanges(self.policies, FileDocuments(folder), record=self._record, on_change=self.seen.put_nowait)

    async def _record(self, event: dict[str, Any]) -> None:
        if not self.can_record:
            raise StoreError("disk full")
        self.events.append(event)

    async def change(self, *, settings: dict[str, dict[str, Any]] | None = None, **said: Any) -> None:
        """Change what is given, as the operator."""
        await self.changes.change(Change.model_validate({"settings": settings or {}, **said}), by="admin")

    async def reaches(self, version: int) -> None:
        """Wait until a version is in force."""
        while (await self.seen.get()).version != version:
            pass

    @property
    def live(self) -> Settings:
        """What is in force."""
        return self.policies.in_force.live.settings

    async def answer(self, case: Case) -> dict[int, Case]:
        """Each query's finished case, as the pipeline would make it, after what was tried beside it."""
        plan = self.policies.plan(case.queries)
        answers = {}
        for policy, rows in plan.parts:
            part = answered = case if len(rows) == len(case.queries) else case.rows(rows)
            for _, step in policy.steps:
                answered = await step(answered)
            answers.update(dict.fromkeys(rows, answered))
            if plan.candidate and policy is plan.live:
                self.policies.compare(plan.candidate, part, answered)
        await asyncio.sleep(0.01)
        return answers


async def test_what_is_not_given_stays_and_a_profile_starts_afresh(tmp_path: Path, store: QueryStore) -> None:
    """The second change keeps the first one; naming the profile drops both, and the command line's too."""
    replica = Replica(tmp_path, store, read_settings(profile="truncate", assignments=["suspicion.mode=shadow", "server.max_batch=7"]))
    await replica.change(settings={"truncation": {"top_k": 1}})
    await replica.change(settings={"truncation": {"decimals": None}})
    assert (replica.live.truncation.top_k, replica.live.truncation.decimals) == (1, None)
    assert replica.live.suspicion.mode == "shadow"
    await replica.change(profile="balanced", settings={"truncation": {"top_k": 2}})
    assert replica.live.suspicion.mode == "enforce"
    assert (replica.live.profile, replica.live.truncation.top_k, replica.live.truncation.decimals) == ("balanced", 2, 2)
    assert replica.live.server.max_batch == 7
    assert replica.policies.in_force.version == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"truncation": {"top_k": 0}}, r"truncation\.top_k: .*greater than or equal to 1"),
        ({"truncation": {"top": 1}}, r"truncation\.top: "),
        ({"suspicion": {"tolerated": 0.9}}, r"tolerated must be below"),
        ({"server": {"port": 1}}, r"'server' can't be changed while the service runs"),
        ({"near_duplicates": {"perceptual_radius": 1}}, r"near_duplicates\.perceptual_radius can't be changed"),
        ({"secret": {"a": 1}}, r"'secret' can't be changed"),
    ],
)
async def test_a_senseless_change_is_refused_in_one_line_and_changes_nothing(
    tmp_path: Path, store: QueryStore, settings: dict[str, dict[str, Any]], message: str
) -> None:
    """No version is written, and what was in force stays so."""
    replica = Replica(tmp_path, store)
    with pytest.raises(SettingsError, match=message) as caught:
        await replica.change(settings={"truncation": {"decimals": 1}, **settings})
    assert "\n" not in str(caught.value)
    assert replica.policies.in_force.version == 0
    assert replica.live.truncation.decimals == 2
    assert await replica.changes.history(limit=10) == []


async def test_what_the_bundle_is_not_calibrated_for_is_refused(tmp_path: Path, store: QueryStore) -> None:
    """The steps are built before anything is written."""
    replica = Replica(tmp_path, store)
    with pytest.raises(CalibrationError):
        await replica.change(settings={"ood": {"scorer": "knn"}}, shadow=True)
    assert await replica.changes.history(limit=10) == []


async def test_one_of_two_operators_is_told_to_read_again(tmp_path: Path, store: QueryStore) -> None:
    """Who names the version that he has seen never undoes somebody else's change."""
    one, other = Replica(tmp_path, store), Replica(tmp_path, store)
    await one.change(settings={"truncation": {"top_k": 1}}, expected=0)
    with pytest.raises(ConflictError, match="version 1 is the newest one, not 0"):
        await other.change(settings={"truncation": {"top_k": 5}}, expected=0)
    await other.change(settings={"truncation": {"decimals": 0}}, expected=1)
    assert (other.live.truncation.top_k, other.live.truncation.decimals) == (1, 0)


async def test_a_candidate_answers_nobody_and_is_counted(tmp_path: Path, store: QueryStore) -> None:
    """Its steps see what the live ones saw; the answers, the store and the audit are the live policy's alone."""
    replica = Replica(tmp_path, store, read_settings(profile="truncate", assignments=["near_duplicates.mode=shadow"]))
    before = await replica.answer(case_of(8))
    assert await store.neighbourhoods() == 8
    await replica.change(settings={"near_duplicates": {"mode": "enforce"}, "misrecognition": {"mode": "enforce", "rate": 0.5}}, shadow=True)
    after = await replica.answer(case_of(8))
    assert await store.neighbourhoods() == 8  # nothing was founded twice
    assert np.array_equal(ids(after[0]), ids(before[0]))
    (counted,) = replica.counted
    assert 0 < counted["other_label"] < 8
    assert counted["same"] + counted["other_label"] == 8
    told = shown(replica.policies.in_force.candidate, live=replica.live)
    assert told is not None
    assert told["answers"] == {"same": counted["same"], "other_label": counted["other_label"], "other_scores": 0}
    assert told["change"]["misrecognition.rate"] == [0.0, 0.5]
    await replica.changes.promote(by="admin")
    promoted = await replica.answer(case_of(8))
    assert int((ids(promoted[0])[:, 0] != ids(after[0])[:, 0]).sum()) == counted["other_label"]
    assert replica.policies.in_force.candidate is None


async def test_other_digits_of_the_same_label_are_other_scores(tmp_path: Path, store: QueryStore) -> None:
    """A candidate that only tells less changes no label."""
    replica = Replica(tmp_path, store)
    await replica.change(settings={"truncation": {"top_k": 1, "labels_only": True}}, shadow=True)
    await replica.answer(case_of(5))
    assert dict(replica.counted[0]) == {"other_scores": 5}
    await replica.change(settings={}, shadow=True)
    await replica.answer(case_of(5))
    assert dict(replica.counted[1]) == {"same": 5}


@pytest.mark.parametrize("live_mode", ["off", "shadow", "enforce"])
async def test_a_candidate_joins_the_neighbourhoods_that_the_live_policy_found(tmp_path: Path, store: QueryStore, live_mode: str) -> None:
    """A copy counts as its founder's where the live policy looked; where it did not, every picture stands alone."""
    started = read_settings(profile="truncate", assignments=[f"near_duplicates.mode={live_mode}"])
    replica = Replica(tmp_path, store, started)
    original = case_of(6)
    await replica.answer(original)
    await replica.change(settings={"near_duplicates": {"mode": "enforce"}}, shadow=True)
    closeness = np.full_like(original.scores, 0.1)
    closeness[:, 0] = 0.11  # a close call that only the founder's own answer decides
    await replica.answer(replace(original, logits=np.log(closeness), scores=closeness))
    (counted,) = replica.counted
    elsewhere = int((original.logits.argmax(axis=1) != 0).sum())
    assert elsewhere > 0
    assert counted["other_label"] == (elsewhere if live_mode == "shadow" else 0)


async def test_a_candidate_that_fails_is_switched_off_and_nobody_is_hurt(
    tmp_path: Path, store: QueryStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Said once in the log, and to operators until another candidate comes."""
    replica = Replica(tmp_path, store)
    await replica.change(settings={"ood": {"scorer": "energy"}}, shadow=True)
    for _ in range(3):
        answers = await replica.answer(case_of(4))
        assert ids(answers[0]).shape == (4, 3)
    assert caplog.text.count("failed on trial") == 1
    told = shown(replica.policies.in_force.candidate, live=replica.live)
    assert told is not None
    assert told["failure"] == "RuntimeError: no step for 4"
    assert sum(told["answers"].values()) == 0


async def test_every_way_back_goes_one_step_further(tmp_path: Path, store: QueryStore) -> None:
    """First the candidate is given up, then the policies before come back, at last the settings of the start; each as a new version."""
    replica = Replica(tmp_path, store)
    for top_k in (1, 2, 5):
        await replica.change(settings={"truncation": {"top_k": top_k}})
    await replica.change(settings={"truncation": {"top_k": 9}}, shadow=True)
    came_back = []
    for _ in range(4):
        await replica.changes.roll_back(by="admin")
        came_back.append(replica.live.truncation.top_k)
        assert replica.policies.in_force.candidate is None
    assert came_back == [5, 2, 1, 3]
    assert replica.live is replica.policies.started
    with pytest.raises(ConflictError, match="nothing before"):
        await replica.changes.roll_back(by="admin")
    history = await replica.changes.history(limit=100)
    assert [version["version"] for version in history] == list(range(8, 0, -1))
    assert [version["restores"] for version in history] == [0, 1, 2, 3, None, None, None, None]
    await replica.change(settings={"truncation": {"top_k": 7}})
    await replica.changes.roll_back(by="admin")
    assert replica.live.truncation.top_k == 3


async def test_nothing_is_promoted_without_a_candidate(tmp_path: Path, store: QueryStore) -> None:
    """A live change ends the trial."""
    replica = Replica(tmp_path, store)
    with pytest.raises(ConflictError, match="no candidate"):
        await replica.changes.promote(by="admin")
    await replica.change(settings={"truncation": {"top_k": 1}}, shadow=True)
    await replica.change(settings={"truncation": {"top_k": 2}})
    with pytest.raises(ConflictError, match="no candidate"):
        await replica.changes.promote(by="admin")


async def test_replicas_and_restarts_follow_and_every_version_is_recorded_once(tmp_path: Path, store: QueryStore) -> None:
    """Whatever the others did meanwhile; who could not record tries again."""
    one, other, third = (Replica(tmp_path, store) for _ in range(3))
    one.can_record = False
    with pytest.raises(StoreError):
        await one.change(settings={"truncation": {"top_k": 1}})
    assert one.live.truncation.top_k == 1  # in force, though not recorded yet
    one.can_record = True
    async with other.changes.following(seconds=0.01), third.changes.following(seconds=0.01):
        await one.change(settings={"truncation": {"top_k": 2}}, comment="tell less")
        await other.change(settings={"truncation": {"top_k": 4}}, shadow=True)
        await third.changes.promote(by="admin")
        async with asyncio.timeout(60):
            await other.reaches(4)
            await third.reaches(4)
    late = Replica(tmp_path, store)
    async with late.changes.following():
        assert late.policies.in_force.live_version == 4
        assert late.live.truncation.top_k == 4
    await one.changes.look()
    recorded = [event for replica in (one, other, third, late) for event in replica.events]
    assert sorted(event["version"] for event in recorded) == [1, 2, 3, 4]
    (second,) = [event for event in recorded if event["version"] == 2]
    assert (second["event"], second["by"], second["comment"]) == ("policy", "admin", "tell less")
    assert second["change"] == {"truncation.top_k": [1, 2]}


async def test_what_could_not_be_recorded_at_the_start_is_recorded_later(tmp_path: Path, store: QueryStore) -> None:
    """And not only with the next version."""
    await FileDocuments(tmp_path).write("policy", {"stage": "live", "by": "x", "time": "t", "profile": "open"}, expected=0)
    replica = Replica(tmp_path, store)
    replica.can_record = False
    async with replica.changes.following(seconds=0.01), asyncio.timeout(60):
        assert replica.policies.in_force.live_version == 1
        replica.can_record = True
        while not replica.events:  # noqa: ASYNC110, nobody tells
            await asyncio.sleep(0.01)
    assert [event["version"] for event in replica.events] == [1]


async def test_a_version_that_makes_no_sense_here_is_said_and_passed_over(
    tmp_path: Path, store: QueryStore, caplog: pytest.LogCaptureFixture
) -> None:
    """The last good one stays in force, after a restart too, whatever another release or hand has written."""
    replica = Replica(tmp_path, store)
    await replica.change(settings={"truncation": {"top_k": 1}})
    documents = FileDocuments(tmp_path)
    await documents.write("policy", {"stage": "live", "by": "x", "time": "t", "profile": "fortress"}, expected=1)
    await replica.changes.look()
    await documents.write("policy", {"defences": "all"}, expected=2)
    (tmp_path / "policy" / "000004.json").write_text("{")
    late = Replica(tmp_path, store)
    async with late.changes.following():
        assert late.live.truncation.top_k == 1
    await replica.changes.look()
    assert replica.live.truncation.top_k == 1
    assert "policy version 2 is not in force here: profile: " in caplog.text
    assert "policy version 4 is not in force here" in caplog.text
    await late.change(settings={"truncation": {"top_k": 2}})
    assert late.policies.in_force.live_version == 5
    assert [event["version"] for event in replica.events + late.events] == [1, 2, 3, 4, 5]
    assert [version["version"] for version in await late.changes.history(limit=10)] == [5, 3, 2, 1]
    await late.changes.roll_back(by="admin")
    assert late.live.truncation.top_k == 1


async def test_accounts_are_answered_under_their_own_profiles(tmp_path: Path, store: QueryStore) -> None:
    """One micro-batch, three policies: every query gets the answer that its own profile gives."""
    replica = Replica(tmp_path, store, alice="open", bob="strict", dora="balanced")
    case = case_of(12, clients=("alice", "bob", "carol"))
    answers = await replica.answer(case)
    sizes = {query.client: ids(answers[row]).shape for row, query in enumerate(case.queries)}
    assert sizes == {"alice": (4, 10), "bob": (4, 1), "carol": (4, 3)}
    assert [answers[row].queries[row // 3].id for row in range(12)] == [query.id for query in case.queries]
    await replica.change(settings={"truncation": {"top_k": 5}})
    answers = await replica.answer(case)
    sizes = {query.client: ids(answers[row]).shape for row, query in enumerate(case.queries)}
    assert sizes == {"alice": (4, 10), "bob": (4, 1), "carol": (4, 5)}


async def test_a_profile_that_cannot_be_built_is_answered_as_everyone(
    tmp_path: Path, store: QueryStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Never as nobody: it is said once."""
    replica = Replica(tmp_path, store, alice="fortress")
    answers = [await replica.answer(case_of(2, clients=("alice",))) for _ in range(2)]
    assert all(ids(each[0]).shape == (2, 3) for each in answers)
    assert caplog.text.count("answered as everyone") == 1


@pytest.mark.parametrize(
    ("profile", "clients", "candidate", "expected"),
    [
        ("open", ("carol",), None, True),
        ("open", ("carol", "bob"), None, False),
        ("open", ("carol",), "balanced", False),
        ("balanced", ("alice",), None, True),
        ("balanced", ("alice", "carol"), None, False),
        ("open", ("bob",), None, False),
    ],
)
async def test_the_model_is_asked_for_what_any_of_the_policies_needs(
    tmp_path: Path, store: QueryStore, profile: str, clients: Sequence[str], candidate: str | None, *, expected: bool
) -> None:
    """Features and embedding only where a filter or a lookup is on, or on trial."""
    replica = Replica(tmp_path, store, read_settings(profile=profile), alice="open", bob="strict")
    if candidate:
        await replica.change(profile=candidate, shadow=True)
    assert replica.policies.plan(case_of(4, clients=clients).queries).logits_only is expected


@pytest.mark.parametrize("profile", PROFILES)
def test_what_a_version_tells_makes_the_same_settings_again(profile: str) -> None:
    """Nothing is lost between settings, a document's values, and settings."""
    started = read_settings(profile="balanced", assignments=["limits.per_minute=7"])
    settings = with_values(started, profile=ProfileName(profile), values={"truncation": {"decimals": None}, "ood": {"benign_fpr": 0.5}})
    again = with_values(started, profile=ProfileName(profile), values=said(settings, started=started))
    assert again == settings
    assert settings.limits.per_minute == 7
    assert differences(settings, again) == {}


def test_what_can_be_reloaded_exists() -> None:
    """Every section and key named is a setting."""
    for section, keys in RELOADABLE.items():
        assert (keys or set()) <= set(type(getattr(read_settings(), section)).model_fields)
