"""What a submission finds as its sitecustomize: notes and refuses sockets, and writing outside its
folder. The standard library only.

No jail: a program that means to can leave any fence made of Python. Where the system allows, the
kernel holds network and files as well.
"""

import json
import os
import resource
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
LONGEST = 300  # characters of a note
CALLS = {
    "socket.connect": 1,
    "socket.sendto": 1,
    "socket.sendmsg": 1,
    "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0,
    "socket.gethostbyaddr": 0,
}
CHANGES = {  # audit event -> which of its arguments name what is changed
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.mkdir": (0,),
    "os.rename": (0, 1),
    "os.link": (1,),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.utime": (0,),
    "os.setxattr": (0,),
    "os.removexattr": (0,),
    "shutil.rmtree": (0,),
}
STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn")
FAMILIAR = ("/dev/null", "/dev/zero", "/dev/tty", "/dev/stdout", "/dev/stderr")
LOCAL = ("localhost", "127.", "::1")


class Blocked:
    """Finds nothing, and refuses the packages that a stranger's machine does not have."""

    def __init__(self, names):
        """names: top-level packages."""
        self.names = names

    def find_spec(self, name, path=None, target=None):
        """Raise ModuleNotFoundError for a blocked package that the folder itself does not hold."""
        top = name.partition(".")[0]
        if top in self.names and not any(
            os.path.exists(os.path.join(os.getcwd(), top + ending)) for ending in ("", ".py")
        ):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def guard():
    """Set limits and the audit hook of this process, from config.json beside this file."""
    with open(os.path.join(HERE, "config.json")) as file:
        config = json.load(file)
    for limit, most in (
        (resource.RLIMIT_DATA, config["memory"]),
        (resource.RLIMIT_FSIZE, config["file"]),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(limit)[1]
        resource.setrlimit(
            limit, (most, most) if hard == resource.RLIM_INFINITY else (min(most, hard),) * 2
        )
    sys.meta_path.insert(0, Blocked(config["blocked"]))
    notes = os.open(os.path.join(HERE, "notes"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(kind, what):
        os.write(notes, (json.dumps([kind, str(what)[:LONGEST]]) + "\n").encode())

    def inside(path):
        return path == config["writable"] or path.startswith(config["writable"] + os.sep)

    def change(event, path):
        if isinstance(path, int) or path is None:
            return
        path = os.path.realpath(os.fsdecode(path))
        if (
            path in FAMILIAR
            or path.startswith("/dev/pts/")
            or inside(path)
            and not path.startswith(HERE)
        ):
            return
        note("write", f"{event} {path}")
        raise PermissionError(
            13, "refused by maskgolf validate: outside the submission's folder", path
        )

    def call(event, address):
        host = address[0] if isinstance(address, tuple) else address
        if isinstance(address, tuple) or event.startswith("socket.get"):
            host = "" if host is None else os.fsdecode(host)
            if host and not host.startswith(LOCAL):
                note("network", f"{event} {address}")
                raise PermissionError(
                    13, f"refused by maskgolf validate: no network ({event} {address})"
                )

    def hook(event, arguments):
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & (
                os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
            ):
                change(event, path)
            elif not isinstance(path, int) and os.fsdecode(path).startswith(config["traced"]):
                note("read", os.fsdecode(path))
        elif event in CHANGES:
            for index in CHANGES[event]:
                if index < len(arguments):
                    change(event, arguments[index])
        elif event in CALLS:
            call(event, arguments[CALLS[event]])
        elif event in STARTS:
            note("start", arguments[0])

    note("ready", sys.version.split()[0])
    sys.addaudithook(hook)


guard()
