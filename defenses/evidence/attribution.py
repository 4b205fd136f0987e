"""Whose answers a suspect was trained on: does it repeat the wrong labels that one client was told, and no other?

DAWN's verification (Szyller et al. 2021, section 5) for many clients at once, corrected as in Holm 1979. The rate at which an innocent
suspect would name the told labels is measured, never assumed: a wrong label that looks like the right one is named by honest recognizers.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Self

from scipy.special import betainc  # type: ignore[import-untyped]  # ships no types

from defenses.evidence.trigger import Trigger

LEVEL = 0.01  # the share of innocent suspects for which anybody is named


@dataclass(frozen=True, slots=True)
class Count:
    """How often a suspect named what was told, and how surprising that is.

    `matches` of the `asked` triggers, `control_matches` of their `controls`. `null_rate` is the larger of two rates: that of independent
    recognizers, and this suspect's own on these images, the mean over triggers of the share of its 1 + K keyed labels, the told one among
    them, that the suspect named. `p_value` is P(Bin(asked, null_rate) >= matches); 1 if nothing was asked.

    Why so: to whoever does not know the key, the told label and the controls are exchangeable whatever the suspect prefers. Given that it
    named s of a trigger's 1 + K labels, the told one is among those with probability s / (1 + K), independently in every neighbourhood.
    So matches are a sum of independent trials whose probabilities are known and have this mean, and the binomial of the mean bounds its
    tail (Hoeffding 1956) from matches >= asked * null_rate + 1 on; with fewer, the tail is no evidence. The controls alone would estimate
    the same rate with an error that is missing in the p-value; their upper bound at 95% fails for one suspect in twenty, while a level is
    divided among hundreds of clients, and still costs more power. Here what is matched raises the rate by 1 / (1 + K) of itself.
    """

    asked: int
    matches: int
    control_matches: int
    controls: int
    null_rate: float
    p_value: float

    @classmethod
    def of(cls, triggers: Iterable[Trigger], answers: Mapping[str, int], *, independents: float) -> Self:
        """Count triggers, each of another neighbourhood and with its image in `answers` (digest -> class id, -1 for a class not ours)."""
        asked = matches = control_matches = controls = 0
        shares = 0.0
        for trigger in triggers:
            answer = answers[trigger.image]
            match, control = int(trigger.told == answer), trigger.controls.count(answer)
            asked, matches = asked + 1, matches + match
            control_matches, controls = control_matches + control, controls + len(trigger.controls)
            shares += (match + control) / (1 + len(trigger.controls))
        rate = max(independents, shares / asked) if asked else independents
        return cls(asked, matches, control_matches, controls, rate, binomial_tail(matches, asked, rate))


@dataclass(frozen=True, slots=True)
class Attribution:
    """What a suspect's answers say about one client.

    `triggers` is how many neighbourhoods it has triggers in. `asked` to `p_value` are a Count of those that were asked about and count for
    it; `explained` is how many more were asked about but are left out, because they are shared with a client that is named or as
    suspicious. `corrected` is the p-value after Holm's correction. `alike` are clients as suspicious as this one, from whom it cannot be
    told because its evidence rests on what they share; then what they share is counted too. `named` iff `corrected` is at most the level
    and nobody is alike.
    """

    client: str
    triggers: int
    asked: int
    matches: int
    control_matches: int
    controls: int
    null_rate: float
    p_value: float
    corrected: float
    named: bool
    explained: int
    alike: tuple[str, ...] = ()


def binomial_tail(matches: int, trials: int, rate: float) -> float:
    """P(Bin(trials, rate) >= matches), exact, as an incomplete beta function: no sum that loses what is tiny."""
    assert 0 <= matches <= trials and 0 <= rate <= 1, (matches, trials, rate)
    return float(betainc(matches, trials - matches + 1, rate)) if matches else 1.0


def holm(p_values: Sequence[float], *, family: int) -> list[float]:
    """Correct p-values, in the order in which they are tested, for `family` >= len(p_values) tests: monotone, at most 1 (Holm 1979)."""
    assert family >= len(p_values), (family, len(p_values))
    corrected: list[float] = []
    for step, value in enumerate(p_values):
        corrected.append(min(1.0, max(corrected[-1] if corrected else 0.0, (family - step) * value)))
    return corrected


def one_each(triggers: Iterable[Trigger]) -> list[Trigger]:
    """One client's first trigger in every neighbourhood: its later variants of a picture had the same answer and are no second witness."""
    first: dict[str, Trigger] = {}
    for trigger in sorted(triggers, key=lambda one: (one.time, one.image)):
        first.setdefault(trigger.neighbourhood, trigger)
    return list(first.values())


def attribute(
    triggers: Mapping[str, Sequence[Trigger]],
    answers: Mapping[str, int],
    *,
    independents: float,
    level: float = LEVEL,
    clients: int | None = None,
) -> tuple[Attribution, ...]:
    """Name the clients whose wrong labels a suspect repeats, most suspicious first.

    For a suspect that was trained on nobody's answers anybody at all is named with probability `level` at most. `triggers` are all of one
    model by client, asked about or not; `answers` are the suspect's, image digest -> class id, -1 for a class that is not ours.
    `independents`, in (0, 1), is the rate at which recognizers that know nothing of us name told labels. Holm's correction goes over
    `clients`: everybody who could have been named, so at least those in `triggers`, which is the default.

    One client at a time is named. What it was told explains the same label wherever others were told it: those triggers no longer
    count for them. Nor does what two suspicious clients share accuse either of them, so that a bystander whose few pictures all were a
    thief's is not named before him. Raises ValueError for rates outside of (0, 1) and fewer clients than there are.
    """
    family = len(triggers) if clients is None else clients
    if not (0 < independents < 1 and 0 < level < 1 and family >= len(triggers)):
        raise ValueError(f"no test: independents {independents}, level {level}, {family} clients of {len(triggers)}")
    held = {client: {trigger.neighbourhood for trigger in own} for client, own in triggers.items()}
    asked = {client: one_each(trigger for trigger in own if trigger.image in answers) for client, own in triggers.items()}

    def count(client: str, others: Collection[str]) -> Count:
        rest = (one for one in asked[client] if not any(one.neighbourhood in held[other] for other in others))
        return Count.of(rest, answers, independents=independents)

    named: dict[str, Count] = {}
    while True:
        counts = {client: count(client, named) for client in triggers if client not in named}
        threshold = level / max(1, family - len(named))
        suspicious = [client for client in counts if counts[client].p_value <= threshold]
        alone = {client: count(client, [*named, *(other for other in suspicious if other != client)]) for client in suspicious}
        best = min(suspicious, key=lambda client: (alone[client].p_value, client), default=None)
        if best is None or alone[best].p_value > threshold:
            break
        named[best] = alone[best]

    alike = {one: tuple(sorted(other for other in suspicious if other != one and held[one] & held[other])) for one in suspicious}
    tested = [*named, *sorted((client for client in counts if client not in alike), key=lambda client: (counts[client].p_value, client))]
    counts |= named
    corrected = dict(zip(tested, holm([counts[client].p_value for client in tested], family=family), strict=True))
    for client in alike:
        # None of them takes a step of Holm's: who of them is guilty is not known.
        corrected[client] = holm([*(one.p_value for one in named.values()), counts[client].p_value], family=family)[-1]
    found = (
        Attribution(
            client=client,
            triggers=len(held[client]),
            **asdict(counts[client]),
            corrected=corrected[client],
            named=client in named,
            explained=len(asked[client]) - counts[client].asked,
            alike=alike.get(client, ()),
        )
        for client in triggers
    )
    return tuple(sorted(found, key=lambda one: (one.corrected, one.client)))
