"""``python -m tasks.phantoms``, as earlier versions called :mod:`tasks.tools.phantoms`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("tasks.tools.phantoms", run_name="__main__", alter_sys=True)
