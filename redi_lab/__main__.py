"""`python -m redi_lab`, the same as the console script `redi-lab`."""

import signal

from redi_lab.errors import quit_at_once


def main() -> None:
    """Entry point; a signal that comes while the rest is imported ends it like a later one."""
    signal.signal(signal.SIGTERM, quit_at_once)
    from redi_lab.cli import main as run

    run()


if __name__ == "__main__":
    main()
