"""Progress lines, bars, and readable numbers."""

from __future__ import annotations

import io

import pytest

from g4g_core.progress import BYTES, format_bytes, format_duration, progress, summary


class Clock:
    """Seconds that pass when the test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_terminal_a_line_appears_now_and_then_and_at_the_end() -> None:
    stream, clock = io.StringIO(), Clock()
    with progress(40, "tracking", stream=stream, clock=clock) as bar:
        for number in range(40):
            clock.now += 1.0
            bar.advance(note=f"clip {number}")
    assert stream.getvalue().splitlines() == [
        "tracking: 10/40 clips, 1.0 clips/s, 30 s left (clip 9)",
        "tracking: 20/40 clips, 1.0 clips/s, 20 s left (clip 19)",
        "tracking: 30/40 clips, 1.0 clips/s, 10 s left (clip 29)",
        "tracking: 40/40 clips, 1.0 clips/s, in 40 s (clip 39)",
    ]


def test_a_short_job_prints_one_line() -> None:
    stream, clock = io.StringIO(), Clock()
    with progress(2, "writing", unit="shards", stream=stream, clock=clock) as bar:
        clock.now = 4.0
        bar.advance(2)
    assert stream.getvalue() == "writing: 2/2 shards, 0.5 shards/s, in 4 s\n"


def test_an_interrupted_job_says_how_far_it_came() -> None:
    stream = io.StringIO()
    with pytest.raises(RuntimeError), progress(3, "writing", stream=stream, clock=Clock()) as bar:
        bar.advance()
        raise RuntimeError
    assert stream.getvalue() == "writing: 1/3 clips\n"


def test_quiet_shows_nothing() -> None:
    stream = Terminal()
    with progress(3, "writing", quiet=True, stream=stream) as bar:
        bar.advance(3)
    assert stream.getvalue() == ""


@pytest.mark.parametrize("total", [3, None])
def test_a_terminal_shows_count_and_current_item_literally(
    total: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with progress(total, "writing", stream=stream) as bar:
        bar.advance(2, note="[bold]clip[/bold]")
    assert "writing" in stream.getvalue()
    assert ("2/3 clips" if total else "2 clips") in stream.getvalue()
    assert "[bold]clip[/bold]" in stream.getvalue()


def test_bytes_are_written_in_multiples() -> None:
    assert summary(5_000_000, 10_000_000, 2.0, BYTES) == "5.0 MB of 10.0 MB, 2.5 MB/s, 2 s left"
    assert summary(5_000_000, None, 2.0, BYTES) == "5.0 MB, 2.5 MB/s"


def test_an_unknown_total_leaves_out_what_cannot_be_known() -> None:
    assert summary(3, None, 60.0, "clips") == "3 clips, 0.050 clips/s"
    assert summary(0, 3, 0.0, "clips") == "0/3 clips"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7620, "2 h 07 min"),
        (273600, "3 d 04 h"),
    ],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (6009, "6009 B"),
        (54_573_114, "54.6 MB"),
        (999_960, "1.0 MB"),
        (2.5e9, "2.5 GB"),
        (3e12, "3.0 TB"),
    ],
)
def test_sizes_read_well(count: float, text: str) -> None:
    assert format_bytes(count) == text
