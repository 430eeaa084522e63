"""``python -m tasks.duplicates``, as earlier versions called :mod:`tasks.tools.duplicates`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("tasks.tools.duplicates", run_name="__main__", alter_sys=True)
