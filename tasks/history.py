"""``python -m tasks.history``, as earlier versions called :mod:`tasks.tools.history`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("tasks.tools.history", run_name="__main__", alter_sys=True)
