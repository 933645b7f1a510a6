"""``python -m physscore``: the same as the command."""

import sys


def main() -> None:
    """Run the command; Ctrl-C while it is being loaded ends it as it does later."""
    try:
        from physscore.cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
