"""The embedded lip-sync experts ``sync-a`` and ``sync-b``: small networks that say how well a mouth and a sound agree.

:mod:`infer` reads them with NumPy alone; :mod:`trainable` trains them with torch.
"""
