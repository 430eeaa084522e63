"""How stores of earlier versions become those of today, step by step; see :mod:`tasks.store.upgrade`."""
