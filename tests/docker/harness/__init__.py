"""What the whole-product tests stand on: processes, a dockerd of their own, an Orlop of their own.

Nothing here knows what is tested. Everything lives below one temporary folder, is stopped by process id,
and is gone afterwards, also when a test fails.
"""
