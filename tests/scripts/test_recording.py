"""The recording of a sample: its frames fill in, and the last one is what the command prints."""

import re

from harness import cli
from tests.scripts import recording


def test_frames_end_where_the_next_one_begins():
    """However the terminal's output is cut into reads."""
    text = "\x1b[?25lone\n\x1b[1mtw\u2591\x1b[0m\r\x1b[2K\x1b[1A\x1b[2Kone\r\n\x1b[1mtwo\x1b[0m\r\n"
    text += "\r\x1b[1A\x1b[2K\x1b[1A\x1b[2Kend\r\n"
    for size in (1, 7, 1000):
        reads = [text[i : i + size] for i in range(0, len(text), size)]
        frames = recording.frames_of([(float(i), part) for i, part in enumerate(reads)])
        assert [screen for _, screen in frames] == ["one\ntw\u2591", "one\ntwo", "end"]
        seconds = [at for at, _ in frames]
        assert seconds == sorted(seconds) and seconds[-1] == len(reads) - 1


def test_frames_are_chosen_evenly():
    assert recording.some(list(range(11)), 5) == [0, 2, 4, 6, 8, 10]
    assert recording.some([7], 5) == [7] and recording.some([1, 2], 5) == [1, 2]


def test_a_recording_fills_in(run_directory, tmp_path, capsys):
    words = ("--order", "confidence", "--prompt", "if")
    recording.main(str(run_directory), str(tmp_path / "sample.txt"), *words)
    said = (tmp_path / "sample.txt").read_text()
    command, *frames = re.split(r"\n\[\d+\.\d s\]\n", said)
    assert command == f"$ maskgolf sample {run_directory} --order confidence --prompt if\n"
    assert "\u2591" in frames[0] and "\u2591" not in frames[-1] and "sample 0" in frames[-1]
    capsys.readouterr()
    assert cli.main(["sample", str(run_directory), *words]) == 0
    text = capsys.readouterr().out.split("\n", 1)[1]
    assert "".join(text.split()) in "".join(frames[-1].split())
