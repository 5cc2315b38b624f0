"""What a submission finds as its sitecustomize: notes what is tried beyond its folder, and hides
our packages, which the machine of a submission does not have. The standard library only.

It refuses nothing else and is no fence: the kernel is.
"""

import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
BOX = os.path.dirname(HERE) + os.sep  # where a submission may write
LONGEST = 300  # characters of a note
HIDDEN = ("harness", "fast", "reference", "tests")
LOCAL = ("localhost", "127.", "::1")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
ADDRESSES = {  # audit event -> which of its arguments is an address or a host
    "socket.connect": 1,
    "socket.sendto": 1,
    "socket.sendmsg": 1,
    "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0,
    "socket.gethostbyaddr": 0,
}
CHANGES = {  # audit event -> which of its arguments are paths that it changes
    **dict.fromkeys(("os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree"), (0,)),
    **dict.fromkeys(("os.chmod", "os.chown", "os.utime", "os.setxattr", "os.removexattr"), (0,)),
    **dict.fromkeys(("os.link", "os.symlink"), (1,)),
    "os.rename": (0, 1),
}


class Hidden:
    """Finds no module, and refuses the hidden packages that the folder itself does not hold."""

    def find_spec(self, name, path=None, target=None):
        """Raise ModuleNotFoundError for a hidden package."""
        top = name.partition(".")[0]
        if top in HIDDEN and not (os.path.exists(top) or os.path.exists(f"{top}.py")):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def observe():
    """Write what this process tries to the file of notes, a JSON pair a line."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    notes = os.open(os.path.join(HERE, "notes"), flags, 0o600)

    def note(kind, what):
        os.write(notes, (json.dumps([kind, what[:LONGEST]]) + "\n").encode())

    def hook(event, arguments):
        changed = [arguments[i] for i in CHANGES.get(event, ()) if i < len(arguments)]
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING:
            changed = arguments[:1]
        for path in changed:
            if isinstance(path, str | bytes | os.PathLike):
                path = os.path.realpath(os.fsdecode(path))
                if not path.startswith((BOX, "/dev/")) or path.startswith(HERE):
                    note("write", f"{event} {path}")
        if event in ADDRESSES:
            address = arguments[ADDRESSES[event]]
            host = address[0] if isinstance(address, tuple) else address
            named = isinstance(address, tuple) or event.startswith("socket.get")  # no UNIX socket
            if named and host and not os.fsdecode(host).startswith(LOCAL):
                note("network", f"{event} {address}")

    note("ready", sys.version.split()[0])
    sys.addaudithook(hook)


sys.meta_path.insert(0, Hidden())
observe()
