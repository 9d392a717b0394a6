"""The tables of the file: their keys, the kind of value of each, the defaults. Field docs are the reference of the
configuration.
"""
