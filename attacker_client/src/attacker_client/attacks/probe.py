"""Probe: the thief's reconnaissance. A few hundred queries tell what an endpoint says, and what it hides."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from attacker_client.attacks.attack import Scene
from attacker_client.errors import Unanswered
from attacker_client.near_duplicates import TRANSFORMS, variants_by
from attacker_client.transfer_set import Images, TransferSet, rounding

STRONG = ("far-shift", "turn", "washed-out")
SATURATED = 0.99  # a best score above this doesn't move with a pixel, however honest
MARGIN = 0.1  # an answer is confident when its best score is this much above the second
Finding = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask at most `queries` questions that an honest recognizer would answer in a known way, and recommend an attack.

    Shares of the queries: 1/6 images of the pool; 1/6 the same with one pixel changed by one level, which no recognizer should mind; 1/3
    near-duplicates by every transform (without flips unless `mirror`) and 1/12 by changes too strong for one; the rest images that show
    nothing: noise, plain colours, checkerboards, halves of two images blended. Below about 100 queries some kinds are left out.

    What gives an endpoint away: labels that contradict each other between near-duplicates (answers altered at random: vote); scores that
    come back the same for other pixels, or labels that stick through strong changes (near-duplicates are joined to one answer); different
    labels for pictures of one kind of nonsense, which look all alike to a smooth recognizer (such queries are altered: learn what labels
    are not). Findings are `probe` (numbers), `advice` (sentences) and `recommended` (an attack).
    """

    queries: int = 300
    mirror: bool = False

    summary: ClassVar[str] = "a few hundred queries that tell what the endpoint does, and which attack fits"

    def __post_init__(self) -> None:
        if self.queries < 1:
            raise ValueError("queries is at least 1")

    async def __call__(self, scene: Scene) -> None:
        """Look around; there is no student. Raises Unanswered."""
        budget = min(self.queries, scene.buyer.left)
        sixth, third, twelfth = max(1, budget // 6), budget // 3, budget // 12
        base = scene.pool[np.random.default_rng(scene.seed).permutation(len(scene.pool))[:sixth]]
        plain = await scene.buyer.buy(base)
        if not (plain.weights > 0).any():
            raise Unanswered("no image got an answer that counts: there is nothing to look at")
        settled = plain.rows(np.flatnonzero(_confident(plain)))
        touched = await scene.buyer.buy(_touched(plain.images[: budget - sixth], seed=scene.seed))
        weak = [name for name in TRANSFORMS if self.mirror or name != "flip"]
        near = {name: await _changed(scene, settled, name, n) for name, n in _dealt(third, weak).items()}
        strong = {name: await _changed(scene, settled, name, n) for name, n in _dealt(twelfth, STRONG).items()}
        rest = max(0, budget - 2 * sixth - third - twelfth)
        nonsense = await _nonsense(scene, base, _dealt(rest, [*NONSENSE, "blends"]))
        answers = TransferSet.joined([plain, touched, *(part for _, part in (near | strong).values()), *nonsense.values()])
        probe: dict[str, Finding] = {
            "answers": {"queries": len(answers), **_told(answers)},
            "one_level": _pairs(plain, touched),
            "near_duplicates": {name: _pairs(before, after) for name, (before, after) in near.items()},
            "strong_changes": {name: _pairs(before, after) for name, (before, after) in strong.items()},
            "nonsense": {name: _kind(part) for name, part in nonsense.items()},
        }
        scene.findings["probe"] = probe
        scene.findings["advice"], scene.findings["recommended"] = advised(probe)


def advised(probe: Mapping[str, Finding]) -> tuple[list[str], str]:
    """Say in sentences what a probe found, and which attack fits: (advice, attack)."""
    told, one_level, nonsense = probe["answers"], probe["one_level"], probe["nonsense"]
    near, strong = _merged(probe["near_duplicates"]), _merged(probe["strong_changes"])
    advice = [_about_answers(told)]
    # Two flips in 20 or more: an honest boundary goes through one pixel's one level about once in a thousand images.
    flips = one_level["flips"] or 0.0
    contradicts = flips > 0.03 and flips * one_level["pairs"] >= 2
    if contradicts:
        rate = (1 - np.sqrt(max(0.0, 1 - 2 * flips))) / 2
        advice.append(
            f"{flips:.0%} of the labels change when one pixel changes by one level: about {rate:.0%} of the answers are"
            " altered at random, image by image. Voting among near-duplicates repairs them."
        )
    elif near["flips"] is not None:
        advice.append(f"Labels don't contradict each other on one-level changes; {near['flips']:.0%} change on near-duplicates.")
    replayed = (one_level["same_scores"] or 0) > 0.5
    sticks = strong["pairs"] >= 10 and strong["flips"] < 0.05 and near["flips"] < 0.05
    if replayed:
        advice.append(
            f"{one_level['same_scores']:.0%} of the scores come back the same to the last digit for other pixels: answers are replayed."
        )
    if sticks:
        advice.append(
            "Labels stick even through strong changes: near-duplicates may be joined to one answer, and voting would gain nothing."
        )
    wild = [name for name, kind in nonsense.items() if name != "blends" and kind["variety"] is not None and kind["variety"] > 0.7]
    if wild:
        advice.append(
            f"Pictures of one kind of nonsense ({', '.join(wild)}) get many different labels: answers to images that don't belong to the"
            " domain are altered. Learn what a label is not, or buy images of the domain."
        )
    if contradicts:
        return advice, "voting:knockoff-random"
    if wild:
        return advice, "complementary:knockoff-random"
    if told["scores"]:
        return [*advice, "Scores are told and nothing looks altered: learn them as soft labels."], "knockoff-random"
    return [*advice, "Labels only and nothing looks altered: mixtures of images tell how classes mix."], "composite"


def _about_answers(told: Finding) -> str:
    if not told["scores"]:
        return f"Labels only, of {told['classes']} classes seen so far."
    which = "all" if told["full"] else f"the best {told['entries']} of at least"
    return f"Scores of {which} {told['classes']} classes, rounded to {told['decimals']} decimals, summing to {told['sum']:.2f}."


def _told(answers: TransferSet) -> Finding:
    """What an answer contains; 6 `decimals` stand for six or more."""
    told = ~np.isnan(answers.scores)
    entries = int(np.median(told.sum(axis=1)))
    if not entries:
        return {"classes": answers.classes, "entries": 1, "scores": False, "full": False, "decimals": None, "sum": None}
    total = float(np.nansum(answers.scores, axis=1).mean())
    return {
        "classes": answers.classes,
        "entries": entries,
        "scores": True,
        "full": entries == answers.classes,
        "decimals": rounding(answers.scores[told]),
        "sum": total,
    }


def _pairs(before: TransferSet, after: TransferSet) -> Finding:
    """Compare answers to images with those to changed ones, row by row: shares of flipped labels and of equal scores, mean score change."""
    n = min(len(before), len(after))
    heard = (before.weights[:n] > 0) & (after.weights[:n] > 0)
    if not heard.any():
        return {"pairs": 0, "flips": None, "same_scores": None, "score_change": None}
    width = min(before.classes, after.classes)
    one, other = before.scores[:n, :width][heard], after.scores[:n, :width][heard]
    flips = before.labels[:n][heard] != after.labels[:n][heard]
    both = ~np.isnan(one) & ~np.isnan(other)
    change = np.where(both, np.abs(one - other), 0).max(axis=1, initial=0)
    scored = both.any(axis=1)
    telling = scored & (np.nan_to_num(one).max(axis=1, initial=0) < SATURATED)
    stuck = scored & ~flips
    return {
        "pairs": int(heard.sum()),
        "flips": float(flips.mean()),
        "same_scores": float((change[telling] == 0).mean()) if telling.any() else None,
        "score_change": float(change[stuck].mean()) if stuck.any() else None,
    }


def _merged(pairs: Mapping[str, Finding]) -> Finding:
    heard = [found for found in pairs.values() if found["pairs"]]
    n = sum(found["pairs"] for found in heard)
    return {"pairs": n, "flips": sum(found["flips"] * found["pairs"] for found in heard) / n if n else None}


def _kind(answers: TransferSet) -> Finding:
    """How the answers to one kind of nonsense vary: the labels' entropy as a share of the largest possible, and the mean best score."""
    labels = answers.labels[answers.weights > 0]
    if len(labels) < 4:
        return {"images": len(labels), "variety": None, "labels": None, "best_score": None}
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    most = np.log(max(2, min(len(labels), answers.classes)))
    told = ~np.isnan(answers.scores).all(axis=1)
    best = float(np.nanmax(answers.scores[told], axis=1).mean()) if told.any() else None
    return {"images": len(labels), "variety": float(-(shares * np.log(shares)).sum() / most), "labels": len(shares), "best_score": best}


def _confident(answers: TransferSet) -> NDArray[np.bool_]:
    """Answers far from a boundary; all of them where that isn't told."""
    ordered = np.sort(np.nan_to_num(answers.scores, nan=0), axis=1)
    if np.isnan(answers.scores).all() or answers.classes < 2:
        return answers.weights > 0
    far = (answers.weights > 0) & (ordered[:, -1] - ordered[:, -2] > MARGIN)
    return far if far.any() else answers.weights > 0


def _dealt(queries: int, kinds: Sequence[str]) -> dict[str, int]:
    """As many queries for each kind, the first ones one more where it doesn't come out even."""
    return {kind: queries // len(kinds) + (place < queries % len(kinds)) for place, kind in enumerate(kinds)}


async def _changed(scene: Scene, answers: TransferSet, name: str, n: int) -> tuple[TransferSet, TransferSet]:
    """Answers to n images, or to all if there are fewer, before and after a change."""
    before = answers.rows(np.arange(min(n, len(answers))))
    change = _strongly(name, before.images) if name in STRONG else variants_by(name, before.images, answers.images, seed=scene.seed)
    return before, await scene.buyer.buy(change)


def _noise(n: int, size: int, random: np.random.Generator) -> Images:
    return random.integers(256, size=(n, size, size, 3), dtype=np.uint8)


def _plain(n: int, size: int, random: np.random.Generator) -> Images:
    """Greys of different brightness."""
    return np.broadcast_to(random.integers(40, 216, size=(n, 1, 1, 1), dtype=np.uint8), (n, size, size, 3)).copy()


def _checkerboard(n: int, size: int, random: np.random.Generator) -> Images:
    """Fields of an eighth of the side, in two greys."""
    y, x = np.mgrid[:size, :size] * 8 // size
    dark, light = random.integers(0, 100, size=(n, 1, 1, 1)), random.integers(156, 256, size=(n, 1, 1, 1))
    return np.where(((x + y) % 2 == 0)[None, :, :, None], dark, light).repeat(3, axis=3).astype(np.uint8)


NONSENSE: dict[str, Callable[[int, int, np.random.Generator], Images]] = {"noise": _noise, "plain": _plain, "checkerboard": _checkerboard}


async def _nonsense(scene: Scene, base: Images, queries: Mapping[str, int]) -> dict[str, TransferSet]:
    random = np.random.default_rng([scene.seed, 4])
    kinds = {name: make(queries[name], base.shape[1], random) for name, make in NONSENSE.items()}
    blended = (base[random.integers(len(base), size=(2, queries["blends"]))] // 2).sum(axis=0).astype(np.uint8)
    return {name: await scene.buyer.buy(images) for name, images in (kinds | {"blends": blended}).items()}


def _touched(images: Images, *, seed: int) -> Images:
    """The same with one pixel of each changed by one level, in one colour."""
    n, size = len(images), images.shape[1]
    random = np.random.default_rng([seed, 1])
    at = (np.arange(n), random.integers(size, size=n), random.integers(size, size=n), random.integers(3, size=n))
    touched = images.copy()
    touched[at] = np.where(touched[at] < 255, touched[at] + 1, 254)
    return touched


def _strongly(name: str, images: Images) -> Images:
    """Changes that a person would call another picture, but a coarse fingerprint might not."""
    size = images.shape[1]
    match name:
        case "far-shift":
            return np.roll(images, (size // 3, size // 3), axis=(1, 2))
        case "turn":
            return np.ascontiguousarray(np.rot90(images, axes=(1, 2)))
        case _:
            return (images.astype(np.float32) * 0.3 + 150).astype(np.uint8)
