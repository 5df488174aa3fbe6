"""The methods: `registry` says what a method is; each of the others is one file with a `method` in it.

`idle` says which settings of a recipe cannot act.
"""
