"""``python -m tele.cli`` is ``tele``."""

from tele.cli.main import main

main()
