"""What an engineer should do about a calibration, in plain sentences."""

from app.calibration_evidence import Evidence, interval
from defenses.false_merges import STORED

FEW = 10  # held-out images above a threshold; fewer, and another sample gives quite another rate
POOR_FILTER, POOR_RECALL = 0.5, 0.8
CLEAR = 0.05  # by which another scorer must be better to be worth a sentence


def advice(evidence: Evidence) -> list[str]:
    """Sentences in the order of their weight; an empty list never happens, because the first always states what was reached."""
    return [*_threshold(evidence), *_folder(evidence), *_filter(evidence), *_fingerprint(evidence)]


def _threshold(evidence: Evidence) -> list[str]:
    scores, rate = evidence.own[evidence.default], evidence.benign_fpr
    n, above = len(scores), int((scores > evidence.thresholds[evidence.default]).sum())
    low, high = interval(above, n)
    serve = f"Serve with --set ood.benign_fpr={rate:g} to use this threshold; any other rate works without calibrating again."
    if not above:
        return [
            f"You have only {n} held-out images: the threshold at {rate:.2%} rests on no image, "
            f"and up to {high:.2%} of honest queries may be flagged. Give at least {_wanted(rate)} with --held-out.",
            serve,
        ]
    said = f"Of {n} held-out images {above} are above the threshold: of honest queries like them, between {low:.2%} and {high:.2%} will be."
    if above < FEW:
        said += f" That rests on few images: give at least {_wanted(rate)} with --held-out."
    return [said, serve]


def _wanted(rate: float) -> int:
    return round(FEW / rate)


def _folder(evidence: Evidence) -> list[str]:
    said = []
    if evidence.blank:
        some = f"{evidence.blank} of your {len(evidence.most_foreign)} most foreign images look blank"
        said.append(f"{some}: clean the folder and calibrate again, or empty pictures count as your own.")
    apart = max(channel.merges.apart for channel in evidence.channels)
    if evidence.near_copies:
        said.append(
            f"{evidence.near_copies} of your images lie within a radius of another one (see the pairs below): they are probably true "
            "duplicates. Keep one of each, most of all where one of the two is held out: then thresholds are measured with images "
            "that were learned."
        )
    if apart > 0.01 * evidence.learned:
        said.append(
            f"About {apart} pairs stand apart from the other {evidence.channels[0].merges.pairs} and were not counted as false merges."
        )
    return said


def _filter(evidence: Evidence) -> list[str]:
    if not evidence.foreign:
        return [
            f"No out-of-distribution images were given: the filter ({evidence.default}) knows your images only, and nothing here says how "
            "many foreign ones it finds. A folder of any other photographs (--out-of-distribution) makes a better filter."
        ]
    said = []
    found = {name: evidence.found(name) for name in evidence.foreign}
    best = max(found, key=lambda name: found[name])
    n = len(evidence.foreign[evidence.default])
    said.append(
        f"The default filter ({evidence.default}) finds {found[evidence.default]:.1%} of {n} foreign images that it did not learn from; "
        "foreign images of another kind than your folder's may be found less often."
    )
    if found[best] > found[evidence.default] + CLEAR:
        said.append(f"{best} finds {found[best]:.1%}, more than the default: serve with --set ood.scorer={best}.")
    if max(found.values()) < POOR_FILTER:
        said.append(
            "That is poor: look at the missed images below. If they show what your recognizer is for, take them out of the folder; "
            "if not, the features do not tell them apart: bundle the recognizer with --backbone."
        )
    return said


def _fingerprint(evidence: Evidence) -> list[str]:
    said = []
    if evidence.no_code:
        said.append(
            f"There is no embedding code, because {evidence.no_code}. Near-duplicates are found by the perceptual hash alone: bundle the "
            "recognizer with --backbone, or, if your folder holds frames of films, give one of each."
        )
    for channel in evidence.channels:
        share = float(channel.merges.shares()[channel.radius])
        if share > evidence.false_merges / 2:
            said.append(
                f"Within its radius, the {channel.name} merges {share:.2%} of distinct images with one of {STORED:,}: your images are "
                "very alike, or the folder holds each several times."
            )
    poor = {name: evidence.recall(name)[-1] for name in evidence.channels[0].copies}
    poor = {name: share for name, share in poor.items() if share < POOR_RECALL}
    if poor:
        named = ", ".join(f"{name} {share:.0%}" for name, share in sorted(poor.items(), key=lambda item: item[1]))
        last = evidence.channels[-1]
        remedy = (
            f"a wider radius (--set near_duplicates.{last.setting}) finds more, at the price the curves below show"
            if last.radius < last.widest
            else "the radius is the widest there is: only another embedding finds more (cloneguard bundle --backbone)"
        )
        said.append(
            f"Copies by these transforms are often not recognised: {named}. A thief who uses them founds new neighbourhoods; {remedy}."
        )
    if not said:
        said.append(
            f"Near-duplicates are recognised well, and about {evidence.false_merges:.2%} of distinct images at most merge with others."
        )
    return said
