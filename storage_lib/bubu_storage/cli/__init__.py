"""``bubu-storage``: the library's command line, for people.

`root` holds the group and the global options, each command has a module of its own that is
loaded when it is used. Data goes to standard output, everything else to standard error; the
exit codes are those of `failures.ExitCode`. No module here imports an SDK.
"""

from __future__ import annotations

from bubu_storage.cli.root import cli, main

__all__ = ["cli", "main"]
