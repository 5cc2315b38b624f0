"""Ctrl-C at any moment of a command: exit code 130, one line, no traceback."""

import os
import re
import signal
import subprocess
import sys

import pytest

from harness import cli, interrupts

# A line that Python prints when a module's import has ended, and the interrupt is sent: from the
# first one on that the command itself imports, to the work after the last.
MOMENTS = (
    "harness.command_line",  # the parser, tyro and rich are there
    "tyro._cli",
    "rich.console",
    "torch._C",  # torch is half loaded
    "torch.nn.functional",
    "torch.optim",
    "fast.muon",  # torch is loaded, the command's own imports are not
    "harness.parity",
)
IMPORTED = re.compile(r"^import time:[ \d|]+\s(\S+)$")


def interrupted(moment: str, *arguments: str) -> tuple[int, list[str]]:
    """Return (exit code, lines of stderr) of a command that is interrupted when the import of a
    module has ended.
    """
    command = [sys.executable, "-X", "importtime", "-m", "harness", *arguments]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    said, sent = [], False
    with subprocess.Popen(command, **pipes) as process:
        for line in process.stderr:
            imported = IMPORTED.match(line)
            if imported is None:
                said.append(line.rstrip())
            elif imported[1] == moment and not sent:
                process.send_signal(signal.SIGINT)
                sent = True
    assert sent, f"{moment} was never imported"
    return process.returncode, [line for line in said if not line.startswith("import time:")]


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_interrupt_ends_a_command_with_130_and_one_line(moment):
    """While it loads, half of torch included, and when the work begins."""
    assert interrupted(moment, "parity") == (130, ["maskgolf: interrupted"])


PROGRAM = """
import os, signal, sys, types
from harness import cli, command_line, interrupts

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)

class Finalizer:
    def __del__(self):
        interrupt()

def swallowed(arguments):
    Finalizer()
    for _ in range(10**9):
        pass

def importing(arguments):
    sys.path.insert(0, {folder!r})
    import interrupting
    assert interrupting.whole
    for _ in range(10**9):
        pass

def wrapped(arguments):
    sys.path.insert(0, {folder!r})
    try:
        interrupt()
    except KeyboardInterrupt:
        from harness.errors import code_and_message
        assert interrupts.came
        return 130

def done(arguments):
    print("the result", flush=True)
    return 0

sys.modules["torch"] = types.ModuleType("torch")
sys.modules["torch"].__spec__ = types.SimpleNamespace(_initializing={loading})
command_line.run = {case}
code = cli.main()
interrupt() if {case} is done else None
raise SystemExit(code)
"""


def program(case: str, folder, loading: bool = False, **keywords) -> subprocess.CompletedProcess:
    """Run the entry point around a stand-in for the command."""
    text = PROGRAM.format(case=case, folder=str(folder), loading=loading)
    command = [sys.executable, "-c", text]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **keywords)


def test_an_import_at_work_ends_before_the_interrupt(tmp_path):
    """A module that would swallow the interrupt is loaded whole, then the command ends."""
    (tmp_path / "interrupting.py").write_text(
        "import os, signal\n"
        "whole = True\n"
        "try:\n    os.kill(os.getpid(), signal.SIGINT)\n    for _ in range(1000): pass\n"
        "except BaseException:\n    whole = False\n"
    )
    ran = program("importing", tmp_path)
    assert ran.returncode == 130 and "Traceback" not in ran.stderr, ran.stderr


def test_an_interrupt_that_a_finalizer_swallows_is_raised_again(tmp_path):
    ran = program("swallowed", tmp_path)
    assert (ran.returncode, ran.stderr) == (130, "")


def test_an_interrupt_after_the_result_keeps_the_result(tmp_path):
    """On its way out the process holds nothing: it ends at once."""
    ran = program("done", tmp_path)
    assert (ran.returncode, ran.stdout) == (130, "the result\n")
    assert ran.stderr == "maskgolf: interrupted\n"


def test_until_torch_is_loaded_an_interrupt_ends_the_process(tmp_path):
    """At once, so that no handler of a half loaded library has a say; other ranks say nothing."""
    ran = program("wrapped", tmp_path, loading=True)
    assert (ran.returncode, ran.stderr) == (130, "maskgolf: interrupted\n")
    ran = program("wrapped", tmp_path, loading=True, env=os.environ | {"RANK": "1"})
    assert (ran.returncode, ran.stderr) == (130, "")


def test_an_ignored_interrupt_stays_ignored(tmp_path):
    """Under nohup or in the background of a script."""

    def ignore() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    ran = program("done", tmp_path, preexec_fn=ignore)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "the result\n", "")


def test_another_error_made_of_an_interrupt_is_no_traceback(monkeypatch, capsys):
    """A library may answer it by an error of its own; without one, it is a bug and is raised."""

    def failing(command):
        raise RuntimeError("a worker was interrupted")

    monkeypatch.setattr("harness.commands.report.Report.run", failing)
    with pytest.raises(RuntimeError):
        cli.main(["report", "runs/a"])
    monkeypatch.setattr(interrupts, "came", True)
    assert cli.main(["report", "runs/a"]) == 130
    assert capsys.readouterr().err == "maskgolf: interrupted\n"


def test_a_command_called_from_python_leaves_signals_alone():
    before = signal.getsignal(signal.SIGINT), sys.unraisablehook
    assert cli.main(["--version"]) == 0
    assert (signal.getsignal(signal.SIGINT), sys.unraisablehook) == before


def test_ctrl_c_of_a_terminal_does_not_reach_the_process_that_scores():
    """It reaches a whole group of processes: the one that scores says nothing, and is ended."""
    text = """
import os, signal, sys, threading, time
from harness.evaluation import scoring
group = "import os, signal, time; os.killpg(0, signal.SIGINT); time.sleep(60)"
try:
    scoring.run_without_interrupts([sys.executable, "-c", group])
except KeyboardInterrupt:
    print("interrupted")
"""
    command = [sys.executable, "-c", text]
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=50, start_new_session=True
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "interrupted\n", "")
