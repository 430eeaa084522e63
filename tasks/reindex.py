"""``python -m tasks.reindex`` is :mod:`tasks.tools.reindex`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("tasks.tools.reindex", run_name="__main__", alter_sys=True)
