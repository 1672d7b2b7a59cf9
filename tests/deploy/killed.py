"""Runs an entry point in processes that kill themselves with -9 at a write of the database; started by tests.

Reads lines of JSON: entry point, arguments, store, and the write at which to die (0: never). Each is done in a fork, so
that imports are paid for once. Answers with the exit code and how many writes there were.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

from sqlalchemy import Engine, event

_PRELOADED = (
    "entrypoints.promote",
    "registry.deploy.promotion",
    "analysis.recommend.evidence",
    "registry.config.files",
)


def _die_at(number: int, count: Path) -> None:
    """Kill this process just before its numbered commit that changes anything; keep count in a file."""
    seen, changed = 0, False

    def execute(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        nonlocal changed
        changed = changed or statement.lstrip()[:6].upper() in ("INSERT", "UPDATE", "DELETE")

    def commit(_connection: object) -> None:
        nonlocal seen, changed
        if changed:
            changed, seen = False, seen + 1
            count.write_text(str(seen))
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "before_cursor_execute", execute)
    event.listen(Engine, "commit", commit)


def main() -> None:
    for name in _PRELOADED:
        importlib.import_module(name)
    for line in sys.stdin:
        order = json.loads(line)
        count = Path(tempfile.mkdtemp()) / "count"
        count.write_text("0")
        child = os.fork()
        if not child:
            os.environ["MLFLOW_TRACKING_URI"] = order["store"]
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            _die_at(order["die"], count)
            sys.argv = [order["entry"], *order["arguments"]]
            importlib.import_module(f"entrypoints.{order['entry']}").main()
        _, status = os.waitpid(child, 0)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status), "writes": int(count.read_text())}), flush=True)


if __name__ == "__main__":
    main()
