"""Stand-in for docker in tests: a container is a ``gritlm serve`` of this machine.

``python container_tool.py FOLDER COMMAND ...``; FOLDER keeps the volumes, the running process, and
the list of the commands.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

STATUS = "Name:\tgritlm\nUid:\t{0}\t{0}\t{0}\t{0}\nCapEff:\t{1}\n"


def values(words: list[str], option: str) -> list[str]:
    """Return the values of a repeated option."""
    return [words[i + 1] for i, word in enumerate(words) if word == option]


def run(folder: Path, words: list[str]) -> None:
    settings = dict(each.split("=", 1) for each in values(words, "-e"))
    volumes = {target: source for source, target in (v.split(":") for v in values(words, "-v"))}
    settings["GRITLM_STORE"] = str(folder / volumes["/store"])
    for name in ("code", "pid"):
        (folder / name).unlink(missing_ok=True)
    (folder / "port").write_text(settings["GRITLM_PORT"])
    with (folder / "log").open("w") as log:
        subprocess.Popen(
            [sys.executable, __file__, str(folder), "serve"],
            env={**os.environ, **settings},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    while not (folder / "pid").exists():
        time.sleep(0.01)


def serve(folder: Path) -> None:
    """Run the server, and write its exit code down."""
    process = subprocess.Popen([sys.executable, "-m", "gritlm", "serve"])
    (folder / "pid").write_text(str(process.pid))
    (folder / "code").write_text(str(process.wait()))


def is_running(folder: Path) -> bool:
    return (folder / "pid").exists() and not (folder / "code").exists()


def stop(folder: Path, number: signal.Signals) -> None:
    if is_running(folder):
        os.kill(int((folder / "pid").read_text()), number)
        while is_running(folder):
            time.sleep(0.05)


def execute(folder: Path, words: list[str]) -> int:
    user = os.environ.get("CONTAINER_USER", "10001")
    if words == ["id", "-u"]:
        print(user)
    elif words[0] == "cat":
        print(STATUS.format(user, os.environ.get("CONTAINER_CAPABILITIES", "0000000000000000")))
    elif words[0] == "python":
        settings = {**os.environ, "GRITLM_PORT": (folder / "port").read_text()}
        return subprocess.run([sys.executable, *words[1:]], env=settings, check=False).returncode
    else:
        return 1  # nothing may be written
    return 0


def main() -> int:
    folder, command, words = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    with (folder / "commands").open("a") as commands:
        print(command, *words, file=commands)
    if command in ("build", "run") and "fail" in words:
        print("step 1\nno space left on device", file=sys.stderr)
        return 1
    if command == "image":
        print(1_500_000)
    elif command == "run":
        run(folder, words)
    elif command == "serve":
        serve(folder)
    elif command == "inspect":
        running = str(is_running(folder)).lower()
        print(running if "Running" in words[1] else (folder / "code").read_text().strip())
    elif command == "exec":
        return execute(folder, words[1:])
    elif command == "logs":
        print((folder / "log").read_text())
    elif command == "stop":
        stop(folder, signal.SIGTERM)
    elif command == "rm":
        stop(folder, signal.SIGKILL)
        (folder / "pid").unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
