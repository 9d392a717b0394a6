"""Memory that processes of a gateway share, and its layouts: the board, offences, probe results, recent choices,
looked-up names.
"""
