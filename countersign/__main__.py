"""``python -m countersign``: the same as the installed command."""

from countersign.cli import main

main()
