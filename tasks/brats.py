"""``python -m tasks.brats``, as earlier versions called :mod:`tasks.tools.brats`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("tasks.tools.brats", run_name="__main__", alter_sys=True)
