"""Every figure that we claim, measured beside a baseline in the same run. `python -m bench --help` tells the rest.

A figure is a ratio of pairs: what is measured and its baseline take turns (A B A B ...), so that both see the same
machine with the same neighbours, and each turn gives one ratio. `cases/` has what is measured, `c/` the programs that
do it, `pairing` the statistics, `report` the table and the file, `compare` tells a change from noise.
"""
