"""Runs an entry several times in one process: python many_commands.py SCRIPT COMMANDS.json

Prints a JSON list with the exit code and the standard error of each command, because starting Python anew for
each mistake would take most of the time.
"""

import contextlib
import io
import json
import runpy
import sys
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra

if __name__ == "__main__":
    script, listed = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    found = []
    for overrides in listed:
        sys.argv = [script, *overrides]
        GlobalHydra.instance().clear()
        code, errors = 0, io.StringIO()
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            try:
                runpy.run_path(script, run_name="__main__")
            except SystemExit as exit_:
                code = exit_.code if isinstance(exit_.code, int) else 1
        found.append((code, errors.getvalue()))
    print(json.dumps(found))
