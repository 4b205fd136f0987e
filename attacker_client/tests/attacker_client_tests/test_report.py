"""The report says what run.json says, in one file that loads nothing."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from attacker_client.report import NoRun, duration, in_words, page, read_run, size_of, write

from .runs import a_run, measured


def svgs(html: str) -> list[str]:
    """The plots of a page."""
    return re.findall(r"<svg.*?</svg>", html, re.DOTALL)


def test_headline_figures() -> None:
    """The figures stand there with their intervals, the number of images and what was paid."""
    html = page(a_run())
    for text in (
        "71.2%",
        "65.2 to 77.2%",
        "65.4%",
        "480",
        "a budget of 500",
        "75 s",
        "1.23 MB sent",
        "98.8 kB received",
        "200 more queries",
    ):
        assert text in html, text


def test_the_honest_recognizer_on_test_images() -> None:
    """Agreement with it on the test images is a figure of its own."""
    html = page(a_run(fidelity_to_reference=measured(0.52), fidelity_to_reference_on_test=measured(0.43)))
    assert "<b>52.0%</b>agrees with the honest recognizer<" in html
    assert "<b>43.0%</b>agrees with the honest recognizer on the test images<" in html


def test_plots_are_drawn() -> None:
    """Training, classes and labels are pictures that a browser can parse, with their names in them."""
    plots = svgs(page(a_run()))
    assert len(plots) == 3
    for plot in plots:
        ElementTree.fromstring(plot)
    assert "held-out answers matched" in "".join(plots)
    assert "accuracy, %" in "".join(plots)
    assert all("currentColor" in plot for plot in plots), "text in the dark must not be black"


def test_an_epoch_without_answers_leaves_a_gap() -> None:
    """An epoch that learned nothing has no loss to draw, and the others are drawn all the same."""
    epochs = [{"fit": 1, "epoch": 1, "epochs": 3}, *({"fit": 1, "epoch": epoch, "epochs": 3, "loss": 0.5} for epoch in (2, 3))]
    assert len(svgs(page(a_run(epochs=epochs)))) == 3


def test_nothing_is_loaded() -> None:
    """No address is fetched: the page works in a mail and in ten years."""
    html = page(a_run())
    sources = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", html)
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources), sources
    assert "<script" not in html and "@import" not in html


def test_labels_are_text() -> None:
    """What the endpoint calls a class is never markup of ours."""
    html = page(a_run(attack="<i>x"))
    assert "<b>dog" not in html and "<i>x" not in html
    assert "&lt;b&gt;dog" in html


def test_findings_in_words() -> None:
    """What an attack learned is told a line a fact, nested ones by their path."""
    lines = dict(in_words(a_run()["findings"]))
    assert lines == {"clusters used": "7", "sybil: by": "random", "drawn": "1, 2.5", "flagged": "yes"}
    assert "clusters used" in page(a_run())


def test_reconnaissance_alone() -> None:
    """A run without a student has no figures of one, and no empty chapters."""
    told = {"seen": 0, "classes": 0, "entries": "", "decimals": None, "best_score": None, "most_frequent": None, "labels": []}
    html = page(a_run(student=None, fidelity=None, accuracy=None, per_class=[], epochs=[], examples=[], told=told))
    assert "no student" in html
    assert "agrees with" not in html
    assert not svgs(html)


def test_command_and_notes() -> None:
    """The command that repeats it and what had to be said are on the page."""
    html = page(a_run(notes=["3 of the classes were never named."]))
    assert "attacker-client run http://127.0.0.1:8000/predict --attack standard" in html
    assert "3 of the classes" in html


def test_written_again(tmp_path: Path) -> None:
    """The page is made from run.json alone, byte for byte the same."""
    (tmp_path / "run.json").write_text(json.dumps(a_run()))
    first = write(tmp_path).read_bytes()
    assert write(tmp_path).read_bytes() == first
    assert read_run(tmp_path) == a_run()


@pytest.mark.parametrize("content", [None, "{", "[]", '{"hello": 1}'])
def test_no_run(tmp_path: Path, content: str | None) -> None:
    """A directory without a finished campaign is told as that."""
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(NoRun, match=str(tmp_path)):
        write(tmp_path)


@pytest.mark.parametrize(("seconds", "text"), [(4.4, "4 s"), (600, "10 min"), (7200, "2.0 h")])
def test_duration(seconds: float, text: str) -> None:
    """Time is told in the unit that people would use."""
    assert duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (1500, "1.5 kB"), (2_340_000, "2.34 MB"), (5e9, "5 GB")])
def test_size(count: float, text: str) -> None:
    """So are bytes."""
    assert size_of(count) == text
