"""``python -m tests.demo [--store file|s3]``: what ``make demo`` runs."""

from __future__ import annotations

import argparse
import sys

from tests.cluster.errors import ClusterError
from tests.cluster.processes import exit_on_signals
from tests.demo.console import DemoFailedError, Narrator
from tests.demo.scenario import Demo


def main() -> int:
    """Run the demo; 0 if every promise held, 1 if not, 130 if interrupted."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--store", choices=("file", "s3"), default="file", help="where the objects live")
    parser.add_argument("--keep", action="store_true", help="leave logs and objects for a look")
    arguments = parser.parse_args()

    narrator = Narrator()
    try:
        with exit_on_signals():
            Demo(narrator, store=arguments.store, keep=arguments.keep).run()
    except (DemoFailedError, ClusterError, TimeoutError) as error:
        narrator.console.print(
            f"\n[bold red]The demo failed after {narrator.elapsed_seconds:.0f} s.[/bold red]"
        )
        narrator.console.print(str(error), markup=False)
        return 1
    except KeyboardInterrupt:
        narrator.console.print("\nInterrupted; everything that was started has been stopped.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
