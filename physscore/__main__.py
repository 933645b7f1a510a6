"""``python -m physscore``: the same as the command."""

from physscore.cli import main

main()
