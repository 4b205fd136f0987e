"""Which triggers a suspect is asked about when there are more than it may be asked: a few of everybody's, then those of the suspicious.

What is screened chooses whom to ask more about, and only what is asked then decides: a client that was chosen for its matches would
otherwise be judged by them once more, and p-values would be too small.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

import numpy as np

from defenses.evidence.attribution import Count, one_each
from defenses.evidence.trigger import Trigger

QUERIES = 1_000
SCREENING = 0.4  # the largest share of the queries that screening takes
MOST, LEAST = 20, 5  # triggers a client that are screened
SUSPICIOUS = 0.2  # a p-value of screening up to which a client is asked about again
CONFIRMING = 50  # triggers that a suspicious client gets before the next one gets any

Triggers = Mapping[str, Sequence[Trigger]]


@dataclass(frozen=True, slots=True)
class Plan:
    """The images that the suspect is asked about now: distinct digests, sorted, so that their order groups no client's.

    `left` is how many queries remain after them. If `decisive`, attribute from the answers to these images and no others.
    """

    images: tuple[str, ...]
    left: int
    decisive: bool


def screen(triggers: Triggers, *, queries: int = QUERIES, random: np.random.Generator) -> Plan:
    """Plan what is asked first, at most `queries` images: everything if that fits, and that decides; otherwise a few triggers a client.

    `triggers` are by client, those whose image is still there. Of everybody an equal number of neighbourhoods is screened, 5 to 20 but at
    most half of what a client has, and all together at most 40% of `queries`; where that is too little for all, those with most triggers
    come first.
    """
    firsts = {client: one_each(own) for client, own in triggers.items()}
    everything = {trigger.image for own in firsts.values() for trigger in own}
    if len(everything) <= queries:
        return Plan(tuple(sorted(everything)), queries - len(everything), decisive=True)
    limit = int(SCREENING * queries)
    each = min(MOST, max(LEAST, limit // len(firsts)))
    drawn = _drawn(firsts, random)
    images: set[str] = set()
    for client in sorted(firsts, key=lambda client: (-len(firsts[client]), client)):
        chosen = {trigger.image for trigger in drawn[client][: min(each, len(drawn[client]) // 2)]}
        if len(images | chosen) <= limit:
            images |= chosen
    return Plan(tuple(sorted(images)), queries - len(images), decisive=False)


def confirm(first: Plan, triggers: Triggers, answers: Mapping[str, int], *, independents: float, random: np.random.Generator) -> Plan:
    """Plan what is asked after `screen`, at most `first.left` images: triggers of the suspicious, where nobody's picture was screened.

    `answers` (image digest -> class id, -1 for a class that is not ours) are those to `first.images`, others are not looked at; `triggers`
    are as for `screen`, `independents` as for `attribute`. Everybody whose screening has p <= 0.2, or else the one with the smallest, gets
    50 triggers in the order of p while queries last; what is left then goes to the same clients in turn, and after them to all others in
    turn. A first plan that is decisive is returned as it is.
    """
    if first.decisive:
        return first
    asked = set(first.images)
    screened = {trigger.neighbourhood for own in triggers.values() for trigger in own if trigger.image in asked}
    rest = {client: [one for one in one_each(own) if one.neighbourhood not in screened] for client, own in triggers.items()}
    values: dict[str, float] = {}
    for client, own in triggers.items():
        told = one_each(trigger for trigger in own if trigger.image in asked and trigger.image in answers)
        values[client] = Count.of(told, answers, independents=independents).p_value
    ranked = sorted((client for client in rest if rest[client]), key=lambda client: (values[client], -len(rest[client]), client))
    chosen = [client for client in ranked if values[client] <= SUSPICIOUS] or ranked[:1]
    drawn = _drawn({client: rest[client] for client in chosen}, random)
    firm = chain.from_iterable(own[:CONFIRMING] for own in drawn.values())
    more = chain.from_iterable(zip_longest(*(own[CONFIRMING:] for own in drawn.values())))
    others = _drawn({client: rest[client] for client in ranked if client not in drawn}, random)
    unlikely = chain.from_iterable(zip_longest(*others.values()))
    images = list(dict.fromkeys(trigger.image for trigger in chain(firm, more, unlikely) if trigger))[: first.left]
    return Plan(tuple(sorted(images)), first.left - len(images), decisive=True)


def _drawn(firsts: Mapping[str, list[Trigger]], random: np.random.Generator) -> dict[str, list[Trigger]]:
    """Everybody's triggers in one random order of the neighbourhoods: those who share pictures are asked about the same ones first."""
    neighbourhoods = sorted({trigger.neighbourhood for own in firsts.values() for trigger in own})
    place = dict(zip(neighbourhoods, random.permutation(len(neighbourhoods)).tolist(), strict=True))
    return {client: sorted(own, key=lambda trigger: place[trigger.neighbourhood]) for client, own in firsts.items()}
