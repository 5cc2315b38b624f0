"""The maskgolf command: the entry point, which decides how the process ends.

Exit 0 on success, 1 when a check fails, 2 on bad input, 130 after Ctrl-C.
"""

# Whatever is imported here is imported before Ctrl-C is answered: as little as there can be.
import sys

from harness import interrupts


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code. Without arguments it is the process's command: it
    reads sys.argv and answers SIGINT.
    """
    if arguments is None:
        interrupts.answer()
    from harness import command_line

    if arguments is not None:
        return command_line.run(arguments)
    try:
        code = command_line.run(sys.argv[1:])
    except KeyboardInterrupt:  # another one while the first was being answered
        code = interrupts.CODE
    interrupts.finish(code)
    return code
