"""``python -m tasks.simulation``; see :mod:`tasks.simulation.play`."""

import typer

from tasks.simulation.play import main

if __name__ == "__main__":
    typer.run(main)
