"""Pure decisions, one module per kind: what was observed and the time go in, a Decision comes out.

No I/O, no clock.
"""
